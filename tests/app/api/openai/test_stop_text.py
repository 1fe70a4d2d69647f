"""Stop texts in an answer that arrives in pieces: cut before the first, and nothing of one is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.api.openai.completion import Completion
from app.api.openai.from_messages import Conversation
from app.api.openai.stop_text import before_stop, certain_part
from models.conversation import Answer

SHORT = st.text(alphabet="ab#", max_size=12)
STOPS = st.lists(st.text(alphabet="ab#", min_size=1, max_size=4), max_size=4)


@given(text=SHORT, stops=STOPS)
def test_the_text_ends_before_the_first_stop_text(text: str, stops: list[str]) -> None:
    cut, has_stop = before_stop(text, stops)
    assert has_stop == any(stop in text for stop in stops)
    assert text.startswith(cut)
    assert not any(stop in cut for stop in stops)
    if has_stop:
        assert any(text[len(cut) :].startswith(stop) for stop in stops)
    else:
        assert cut == text


@given(text=SHORT, stops=STOPS, more=SHORT)
def test_what_is_certain_stays_whatever_comes(text: str, stops: list[str], more: str) -> None:
    cut, has_stop = before_stop(text, stops)
    if not has_stop:
        assert before_stop(text + more, stops)[0].startswith(certain_part(cut, stops))


@given(text=SHORT, stops=STOPS, ends=st.lists(st.integers(0, 12)))
@example(text="#aa", stops=["a", "#aa"], ends=[2])  # one begins first, the other ends first
def test_a_stream_says_what_the_whole_answer_says(text: str, stops: list[str], ends: list[int]) -> None:
    completion = Completion("model", Conversation(turns=()), tuple(stops))
    sent = ""
    for answer in [*(Answer(text=text[:end]) for end in sorted(ends)), Answer(text=text, finish_reason="length")]:
        completion.update(answer)
        sent += completion.new_text()
        if completion.finish_reason is not None:
            break
    assert sent == completion.text == before_stop(text, stops)[0]
    assert completion.finish_reason == ("stop" if any(stop in text for stop in stops) else "length")


@pytest.mark.parametrize(("read", "usage"), [(5, (5, 3)), (0, None)])
def test_what_nobody_has_counted_is_no_zero(read: int, usage: tuple[int, int] | None) -> None:
    """A server elsewhere counts at the end of its answer, which is not waited for at a stop text."""
    completion = Completion("m", Conversation(turns=()), stops=("blue",))
    completion.update(Answer(text="A red and a blue", num_prompt_tokens=read, num_new_tokens=3 if read else 0))
    said = completion.as_json()["usage"]
    assert completion.usage_chunk()["usage"] == said
    assert (said and (said["prompt_tokens"], said["completion_tokens"])) == usage
