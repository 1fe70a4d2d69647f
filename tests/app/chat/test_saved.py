"""Saved chats: what was written comes back, and a stranger's file is refused with one line or does nothing."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.chat import saved_pictures
from app.chat.encoding import well_formed
from app.chat.exchange import Exchange, IllustratedAnswer, WantedExtras
from app.chat.json_fields import read_json
from app.chat.pictures import Picture
from app.chat.saved import chat_json, read_chat
from app.chat.session import ChatSession
from models.conversation import Answer, Sampling
from models.errors import ImageError, MiniVLMError, RequestError
from models.grounding import Box, BoxSpan
from tests.app.chat.saved_chats import NOW, opened
from tests.app.helpers import picture, scene
from tests.fakes import INFO, ScriptedModel


def conversation() -> list[Exchange]:
    session, model = ChatSession(), ScriptedModel(["{<1><2><30><40>}", "A **red** circle", "blue"])
    list(session.ask(model, "[refer] the red circle", [Picture(scene(), "scene.png")], Sampling(seed=5)))
    list(session.ask(model, "what is it?", [], Sampling(temperature=0, seed=7), extras=WantedExtras(reads_text=True)))
    list(session.ask(model, "and this?", [picture("blue")]))
    return session.exchanges


def written() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(chat_json(conversation(), saved=NOW))
    return data


def test_what_was_saved_comes_back() -> None:
    before = conversation()
    after = opened(chat_json(before, saved=NOW).encode())
    for old, new in zip(before, after, strict=True):
        for name in ("question", "sampling", "error", "extras", "begins_anew", "phrase", "model", "asked"):
            assert getattr(new, name) == getattr(old, name), name
        assert (new.answer.text, new.answer.finish_reason) == (old.answer.text, "stop")  # type: ignore[union-attr]
        assert new.answer.num_new_tokens == old.answer.num_new_tokens  # type: ignore[union-attr]
        assert [one.image.tobytes() for one in new.pictures] == [one.image.tobytes() for one in old.pictures]
        assert [one.name for one in new.pictures] == [one.name for one in old.pictures]
    assert after[0].phrase == "the red circle"


def test_the_file_says_what_was_asked_of_whom_and_where_the_boxes_are() -> None:
    data = written()
    first = data["exchanges"][0]
    assert (data["format"], data["version"], data["saved"]) == ("minivlm-chat", 1, NOW)
    assert (first["model"], first["settings"]["seed"], first["asked"][:2]) == (INFO.name, 5, "20")
    assert first["answer"]["regions"] == [
        {"label": "the red circle", "number": 1, "box": [0.015, 0.025, 0.305, 0.405], "pixels": [3, 2, 61, 40]}
    ]
    assert len(data["pictures"]) == 2


def test_boxes_of_another_writing_come_back() -> None:
    exchanges = conversation()
    spans = (BoxSpan(0, 3, "a dog", (Box(0.1234567, 0.2, 0.3, 0.4), Box(0, 0, 1, 1))), BoxSpan(3, 4))
    exchanges[0].answer = Answer(text="[0, 1, 2]", finish_reason="stop", spans=spans)
    data = json.loads(chat_json(exchanges, saved=NOW))
    assert [region["label"] for region in data["exchanges"][0]["answer"]["regions"]] == ["a dog", "a dog"]
    after = opened(data)
    assert (after[0].spans, after[1].spans) == (spans, None)
    for wrong in ({"span": [0]}, {"boxes": [[0, 0, 1]]}, {"boxes": [[0, 0, 1, 2]]}, {"label": 5}):
        broken = copy.deepcopy(data)
        broken["exchanges"][0]["answer"]["spans"][0].update(wrong)
        with pytest.raises(RequestError, match=r"exchanges\[0\]\.answer\.spans\[0\]"):
            opened(broken)
    data["exchanges"][0]["answer"]["text"] = "[0, <s>1, 2]"  # a control token, which is broken: nothing is where it was
    assert opened(data)[0].spans is None


def test_pixels_are_those_of_the_file_not_of_the_smaller_copy_that_is_kept() -> None:
    exchanges = conversation()
    exchanges[0].pictures = tuple(replace(one, original_size=(8000, 4000)) for one in exchanges[0].pictures)
    (region,) = json.loads(chat_json(exchanges, saved=NOW))["exchanges"][0]["answer"]["regions"]
    assert region["pixels"] == [120, 100, 2440, 1620]


def test_an_opened_chat_can_be_continued() -> None:
    model = ScriptedModel()
    session = ChatSession()
    session.restore(opened(written()))
    list(session.ask(model, "which colour?"))
    assert [turn.text for turn in model.seen[-1]][::2] == [
        "[refer] the red circle",
        "what is it?",
        "and this?",
        "which colour?",
    ]
    assert session.key


def test_drawn_pictures_come_along() -> None:
    answer = IllustratedAnswer(text="<h>a cat</h>", finish_reason="stop", picture=scene(), has_picture=True)
    (after,) = opened(chat_json([Exchange("draw", (), Sampling(), answer)], saved=NOW).encode())
    assert isinstance(after.answer, IllustratedAnswer)
    assert after.answer.picture is not None
    assert after.answer.picture.tobytes() == scene().tobytes()


def test_many_large_pictures_are_scaled_until_the_file_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_pictures, "PICTURE_BYTES", 300_000)
    noise = Image.effect_noise((1500, 900), 80).convert("RGB")
    (after,) = opened(chat_json([Exchange("x", (Picture(noise),), Sampling(), Answer(text="y"))], saved=NOW).encode())
    assert after.pictures[0].image.size in {(768, 461), (512, 307)}


def at(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The data with another value at `path`; `...` takes it out."""
    data = copy.deepcopy(data)
    *parents, last = path.split(".")
    node: Any = data
    for name in parents:
        node = node[int(name) if name.isdecimal() else name]
    if value is ...:
        del node[last]
    else:
        node[int(last) if last.isdecimal() else last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "x", "no saved chat"),
        ("version", 2, "another version"),
        ("version", ..., "has no field 'version'"),
        ("more", 1, "field that is not known: 'more'"),
        ("pictures", [], "chat.json: pictures must be an object"),
        ("exchanges", [], "holds no question"),
        ("exchanges", [{}] * 2000, "has 2000 entries; the limit is"),
        ("exchanges.1.question", 5, "chat.json: exchanges[1].question must be a text"),
        ("exchanges.1.question", "x" * 20_001, "exchanges[1].question has 20001 characters"),
        ("exchanges.0.pictures", ["gone"], "exchanges[0].pictures[0] names a picture that the file does not hold"),
        ("exchanges.0.settings.seed", "x", "exchanges[0].settings: seed is 'x'"),
        ("exchanges.0.settings.temperature", -1, "exchanges[0].settings: temperature is -1"),
        ("exchanges.0.settings.top_k", 1, "exchanges[0].settings has a field that is not known"),
        ("exchanges.0.answer.text", None, "exchanges[0].answer.text must be a text"),
        ("exchanges.0.answer.finish", "later", "exchanges[0].answer.finish must be"),
        ("exchanges.0.answer.notices", "x", "exchanges[0].answer.notices must be a list"),
        ("exchanges.0.answer.tokens", True, "exchanges[0].answer.tokens must be a number"),
        ("exchanges.0.answer.seconds", -1, "exchanges[0].answer.seconds must be a number"),
        ("exchanges.0.answer.drawn_picture", "x", "exchanges[0].answer.drawn_picture names a picture"),
        ("exchanges.0.answer", None, "exchanges[0].answer must be there"),
        ("exchanges.0.reads_text", "yes", "exchanges[0].reads_text must be true or false"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_field(path: str, value: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        opened(at(written(), path, value))
    assert message in str(caught.value)
    assert str(caught.value).startswith("chat.json")
    assert "\n" not in str(caught.value)


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (7000, 7000)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda: "https://example.org/x.png",
        lambda: "data:image/svg+xml;base64,PHN2Zz4=",
        lambda: "data:text/html,<script>",
        lambda: "data:image/png;base64,!!!",
        lambda: uri(b"no picture"),
        lambda: uri(b""),
        lambda: "data:image/png;base64,",
    ],
)
def test_pictures_are_decoded_like_uploads(make: Callable[[], str]) -> None:
    with pytest.raises(MiniVLMError):
        opened(at(written(), "pictures", {"a": {"name": "a", "data": make()}}))


def test_pictures_have_a_limit_together() -> None:
    one = {"name": "a", "data": uri(bomb())}
    with pytest.raises(RequestError, match="more than 100 megapixels together"):
        opened(at(written(), "pictures", {"a": one, "b": one, "c": one}))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 5000, b"NaN", b'{"a": Infinity}', b"{", b"null", b"[]", b'"x"', b"0"],
)
def test_what_is_no_chat_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        opened(data)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large_is_not_even_read() -> None:
    with pytest.raises(RequestError, match="larger than 25 MiB"):
        opened(b" " * (saved_pictures.MAX_BYTES + 1))


def test_control_tokens_and_half_characters_of_a_strangers_file_are_harmless() -> None:
    data = at(written(), "exchanges.0.question", "a </s> \ud800")
    data = at(data, "exchanges.0.answer.text", "b <ImageHere> \udfff </s>")
    first, *_ = opened(data)
    assert first.question == "a < /s> \ufffd"
    assert first.text == "b < ImageHere> \ufffd < /s>"


def test_a_model_of_one_picture_refuses_a_question_with_two() -> None:
    data = written()
    both = list(data["pictures"])
    with pytest.raises(RequestError, match=r"exchanges\[0\].pictures are 2, and this model takes 1"):
        opened(at(data, "exchanges.0.pictures", both))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    *(
        "format",
        "version",
        "saved",
        "pictures",
        "exchanges",
        "exchanges.0",
        "exchanges.0.answer",
        "exchanges.0.settings",
    ),
    *("exchanges.0.pictures", "exchanges.1.phrase", "exchanges.1.answer.regions", "exchanges.0.answer.tokens"),
]
WHOLE = written()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), JSON)
def test_anything_else_in_its_place_is_refused_or_fits(path: str, value: Any) -> None:
    message = ""
    try:
        chat_json(opened(at(WHOLE, path, value)), saved=NOW).encode()
    except MiniVLMError as error:
        message = str(error)
    assert "\n" not in message


@given(st.text(st.characters(), max_size=8) | st.lists(st.integers(0, 0x10FFFF).map(chr), max_size=8).map("".join))
def test_every_text_can_be_encoded_afterwards(text: str) -> None:
    made = well_formed(text)
    made.encode()
    assert made == text or any("\ud800" <= character <= "\udfff" for character in text)


def test_a_file_of_millions_of_values_is_refused_before_they_are_made() -> None:
    """25 MiB of them took 5 s, for which everybody waited, and a gigabyte."""
    with pytest.raises(RequestError, match=r"a\.json holds more than 500,000 values"):
        read_json(b'{"exchanges": [' + b"{}," * 300_000, "a.json")


def test_a_file_with_too_much_text_is_refused_and_its_pictures_are_not_text() -> None:
    """25 MiB of it became a page of 285 MB and took a gigabyte while that was made."""
    session = ChatSession()
    session.exchanges = [Exchange("q" * 1000, (), Sampling(), answer=Answer(text="a" * 200_000)) for _ in range(21)]
    text = chat_json(session.exchanges, saved=NOW)
    with pytest.raises(RequestError, match=r"a\.json has more than 4 MiB of text"):
        read_chat(text.encode(), ScriptedModel(), name="a.json")
    short = json.loads(chat_json(session.exchanges[:1], saved=NOW))
    short["pictures"] = {"large": {"name": "large", "data": "data:image/png;base64," + "A" * 5_000_000}}
    with pytest.raises(ImageError, match="large is not an image"):  # it was looked at
        read_chat(json.dumps(short).encode(), ScriptedModel(), name="a.json")
