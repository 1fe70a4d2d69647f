"""Text that grows while ids arrive: whole characters, no stop strings, and exact at the end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.answer_text import AnswerText, hold_back, stop_check
from models.prompt import PromptFormat
from tests.tiny_model import FIRST_BYTE, ByteTokenizer

PLAIN = PromptFormat(user_prefix="Q", assistant_prefix="A")
STOPS = PromptFormat(user_prefix="Q", assistant_prefix="A", stop_strings=("###", "</s>"))
DECODE = ByteTokenizer().decode


def ids_of(data: bytes) -> list[int]:
    return [FIRST_BYTE + byte for byte in data]


def partials(data: bytes, prompt_format: PromptFormat, chunks: list[int]) -> tuple[list[str], AnswerText]:
    """The text after every arrival; `chunks` are the sizes in which ids arrive, repeated."""
    ids, text, shown, end, turn = ids_of(data), AnswerText(DECODE, prompt_format), [], 0, 0
    while end < len(ids) and not text.is_stopped:
        end, turn = min(len(ids), end + chunks[turn % len(chunks)]), turn + 1
        text.update(ids[:end])
        shown.append(text.text)
    text.finish()
    return shown, text


chunk_sizes = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@settings(deadline=None)
@given(st.text(), chunk_sizes)
def test_no_half_character_is_ever_shown(text: str, chunks: list[int]) -> None:
    shown, answer = partials(text.encode(errors="ignore"), PLAIN, chunks)
    whole = text.encode(errors="ignore").decode()
    assert answer.text == whole.strip()
    assert all(whole.strip().startswith(part) for part in shown)


@settings(deadline=None)
@given(st.binary(max_size=60), chunk_sizes)
def test_broken_bytes_never_make_shown_text_wrong(data: bytes, chunks: list[int]) -> None:
    shown, answer = partials(data, PLAIN, chunks)
    final = DECODE(ids_of(data)).strip()
    assert answer.text == final
    assert all(final.startswith(part) for part in shown)
    assert all(len(before) <= len(after) for before, after in pairwise(shown))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "#", "##", "###", "<", "</s", "</s>", " ", "é"]), max_size=12), chunk_sizes)
def test_stop_strings_never_show_not_even_in_part(pieces: list[str], chunks: list[int]) -> None:
    data = "".join(pieces)
    shown, answer = partials(data.encode(), STOPS, chunks)
    assert answer.text == STOPS.finish(data)
    for part in shown:
        assert "###" not in part
        assert answer.text.startswith(part)


@pytest.mark.parametrize("chunk", [1, 2, 3, 50])
def test_tokens_after_the_stop_do_not_count_however_they_arrive(chunk: int) -> None:
    _, answer = partials(b"yes ###Human: more", STOPS, [chunk])
    assert answer.is_stopped
    assert answer.num_tokens == len("yes ###")
    assert answer.text == "yes"


def test_a_character_that_stays_broken_is_shown_as_such_at_the_end() -> None:
    shown, answer = partials("né".encode()[:-1], PLAIN, [1])
    assert shown[-1] == "n"
    assert answer.text == "n\ufffd"


def test_only_as_much_is_held_back_as_a_character_can_lack() -> None:
    assert hold_back("a" + "\ufffd" * 5) == "a\ufffd\ufffd"
    assert hold_back("\ufffd") == ""
    assert hold_back("a\ufffdb") == "a\ufffdb"


@settings(deadline=None)
@given(st.lists(st.sampled_from(["#", "##", "é", "</s", ">", "a ", "###", "😀"]), max_size=12).map("".join))
def test_the_token_that_completes_a_stop_string_is_noticed(text: str) -> None:
    stops, ids = stop_check(DECODE, STOPS), ids_of(text.encode())
    assert stops is not None
    stopped = [any(stop in DECODE(ids[:count]) for stop in STOPS.stop_strings) for count in range(len(ids) + 1)]
    for count in range(1, len(ids) + 1):
        if stopped[count] and not stopped[count - 1]:
            assert stops(ids[:count])
        if stops(ids[:count]):
            assert stopped[count]


def test_a_format_without_stop_strings_has_nothing_to_notice() -> None:
    assert stop_check(DECODE, PLAIN) is None
