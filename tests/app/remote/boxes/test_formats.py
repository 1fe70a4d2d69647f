"""Boxes in the writing of other models: what is written is read again, and nothing that is sent breaks the reader."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.remote.boxes.box_format import BoxFormat
from app.remote.boxes.florence2 import Florence2Boxes
from app.remote.boxes.known import AUTO, NAMES, box_format, guess
from app.remote.boxes.kosmos2 import Kosmos2Boxes
from app.remote.boxes.qwen import QwenBoxes, resized
from models.grounding import Box, BoxSpan, Phrase, cut_at_spans

SIZE = (640, 480)
FORMATS = [name for name in NAMES if name not in (AUTO, "none", "minigpt")]
edges = st.floats(0, 1)
boxes = st.builds(Box.from_corners, edges, edges, edges, edges)
words = st.text("abc é'", min_size=1, max_size=12).map(str.strip).filter(bool)


def written(name: str, label: str, places: Sequence[Box]) -> str:
    """A label with its boxes as a model of this format writes it."""
    form = box_format(name)
    if name.startswith("qwen"):
        return json.dumps([{"bbox_2d": json.loads(form.write(box, SIZE)), "label": label} for box in places])
    if name == "florence-2":
        return label + "".join(form.write(box, SIZE) for box in places)
    pairs = [form.write(box, SIZE).removeprefix("<object>").removesuffix("</object>") for box in places]
    return f"<phrase>{label}</phrase><object>{'</delimiter_of_multi_objects/>'.join(pairs)}</object>"


def shown(form: BoxFormat, text: str, *, is_whole: bool = True) -> str:
    """What a reader sees: phrases in brackets, each with the number of its boxes."""
    spans = form.read(text, SIZE, is_whole=is_whole)
    assert spans is not None
    parts = cut_at_spans(text, spans)
    assert "".join(part if isinstance(part, str) else part.markup for part in parts) == text
    return "".join(
        part if isinstance(part, str) else f"[{part.text} {len(part.boxes)}]" if part.boxes else "" for part in parts
    )


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None, max_examples=60)
@given(label=words, places=st.lists(boxes, min_size=1, max_size=4), before=words)
def test_what_is_written_is_read_again(name: str, label: str, places: list[Box], before: str) -> None:
    form = box_format(name)
    text = f"{before}\n{written(name, label, places)}"
    (span,) = [one for one in form.read(text, SIZE, is_whole=True) or () if one.boxes]
    assert span.label == " ".join(label.split())
    assert len(span.boxes) == len(places)
    step = {"kosmos-2": 1 / 32, "qwen2.5-vl": 1 / 400}.get(name, 1 / 999)  # half a patch more where one is all of a row
    for true, read in zip(places, span.boxes, strict=True):
        for edge in ("x0", "y0", "x1", "y1"):
            assert abs(getattr(true, edge) - getattr(read, edge)) <= step + 1e-6
    assert shown(form, text).startswith(before)


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None, max_examples=60)
@given(text=st.text("{}[]<>\"'`,:0129 abcdjson_/|\n", max_size=60) | st.text(max_size=40), is_whole=st.booleans())
def test_any_text_is_read_without_a_word_lost(name: str, text: str, is_whole: bool) -> None:
    spans = box_format(name).read(text, SIZE, is_whole=is_whole)
    assert spans is not None
    ends = [place for span in spans for place in (span.begin, span.end)]
    assert ends == sorted(ends)
    assert all(0 <= span.begin < span.end <= len(text) for span in spans)
    parts = cut_at_spans(text, spans)
    assert "".join(part if isinstance(part, str) else part.markup for part in parts) == text
    for phrase in parts:
        for box in phrase.boxes if isinstance(phrase, Phrase) else ():
            assert 0 <= box.x0 <= box.x1 <= 1
            assert 0 <= box.y0 <= box.y1 <= 1


@pytest.mark.parametrize("name", FORMATS)
def test_long_nonsense_takes_no_long(name: str) -> None:
    """Twice the text, twice the time; a reader that tries every beginning again would take minutes here."""
    form = box_format(name)
    for piece in ("{", '{"a":', "[", "<loc_1>", "<phrase>", " ", "`", "a<", "},"):
        form.read(piece * 100_000, SIZE, is_whole=False)


@pytest.mark.parametrize("name", FORMATS)
def test_what_has_only_begun_is_not_shown(name: str) -> None:
    form = box_format(name)
    text = written(name, "dog", [Box(0.1, 0.1, 0.5, 0.5)])
    for end in range(len(text) + 1):
        seen = shown(form, text[:end], is_whole=False)
        assert not set('{}<>`_"') & set(seen), (end, seen)
    assert shown(form, text) == "[dog 1]"


def test_qwens_usual_answers() -> None:
    form = QwenBoxes(1000)
    cat, dog = (
        '{"bbox_2d": [0, 0, 500, 1000], "label": "a cat"}',
        '{"bbox_2d": [500, 0, 1000, 500], "label": "dog"}',
    )
    fenced = f"```json\n[\n\t{cat},\n\t{dog}\n]\n```"
    assert shown(form, fenced) == "[a cat 1]\n\t[dog 1]"
    spans = form.read(fenced, SIZE, is_whole=True)
    assert spans[0].boxes == (Box(0, 0, 0.5, 1),)
    twice = fenced.replace("a cat", "dog")
    assert shown(form, twice) == "[dog 2]"
    assert shown(form, 'Here: {"bbox_2d": [1, 2, 3, 4]} and more') == "Here: [ 1] and more"
    for other in (
        '{"a": 1}',
        '{"bbox_2d": [1, 2, 3]}',
        '{"bbox_2d": [1, 2, 3, "x"]}',
        '{"bbox_2d": [1, 2, 3, 1e999]}',
        '{"bbox_2d": 5}',
        "{",
    ):
        assert shown(form, other) == other


@pytest.mark.parametrize(
    ("size", "theirs"),
    [
        ((640, 480), (644, 476)),
        ((28, 28), (56, 56)),
        ((1, 3), (56, 112)),
        ((5000, 4000), (4004, 3192)),
        ((3000, 20), (2996, 28)),
        ((97, 1111), (84, 1120)),
    ],
)
def test_a_picture_is_resized_as_by_the_original(size: tuple[int, int], theirs: tuple[int, int]) -> None:
    """Recorded from `smart_resize` of transformers 5.23, whose module can't be imported without torchvision."""
    assert resized(size, min_pixels=3136, max_pixels=12845056) == theirs


def test_pixels_are_those_of_the_resized_picture() -> None:
    (span,) = QwenBoxes().read('{"bbox_2d": [0, 0, 322, 238], "label": "half"}', (640, 480), is_whole=True)
    assert resized((640, 480)) == (644, 476)
    assert span.boxes == (Box(0, 0, 0.5, 0.5),)


def test_kosmos_as_the_library_reads_it() -> None:
    """Recorded from `clean_text_and_extract_entities_with_bboxes` of transformers 5.23."""
    text = (
        "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object> by"
        "<phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></delimiter_of_multi_objects/>"
        "<patch_index_0100><patch_index_0103></object>."
    )
    theirs = [
        ("a snowman", [(0.390625, 0.046875, 0.984375, 0.828125)]),
        ("a fire", [(0.171875, 0.015625, 0.484375, 0.890625), (0.125, 0.09375, 0.25, 0.125)]),
    ]
    ours = [span for span in Kosmos2Boxes().read(text, SIZE, is_whole=True) if span.boxes]
    assert [(span.label, [(box.x0, box.y0, box.x1, box.y1) for box in span.boxes]) for span in ours] == theirs
    assert shown(Kosmos2Boxes(), text) == " An image of[a snowman 1] by[a fire 2]."
    assert shown(Kosmos2Boxes(), "<phrase> x</phrase><object><patch_index_9999><patch_index_0001></object>") == " x"


def test_florences_usual_answers() -> None:
    form = Florence2Boxes()
    text = (
        "</s><s>car<loc_53><loc_334><loc_933><loc_774>door<loc_0><loc_0><loc_1><loc_1><loc_2><loc_2><loc_3><loc_3></s>"
    )
    assert shown(form, text) == "[car 1][door 2]"
    (car, *_) = [span for span in form.read(text, SIZE, is_whole=True) if span.boxes]
    assert car.boxes == (Box(0.0535, 0.3345, 0.9335, 0.7745),)  # the middles of the bins, as `dequantize` there
    assert shown(form, "a<loc_1><loc_2>") == "a"
    assert shown(form, "<loc_1><loc_2><loc_3><loc_4>") == "[ 1]"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl"),
        ("qwen2.5vl:7b", "qwen2.5-vl"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen3-vl"),
        ("microsoft/kosmos-2-patch14-224", "kosmos-2"),
        ("microsoft/Florence-2-large", "florence-2"),
        ("tiny_minigpt_v2", "minigpt"),
        ("llava", "minigpt"),
    ],
)
def test_a_models_name_tells_its_boxes(model: str, name: str) -> None:
    assert guess(model) == name


def test_the_programs_own_markup_is_left_to_the_program() -> None:
    assert box_format("minigpt").read("{<1><2><3><4>}", SIZE, is_whole=True) is None
    assert box_format("none").read("{<1><2><3><4>}", SIZE, is_whole=True) == ()
    assert box_format("minigpt").write(Box(0.1, 0.2, 0.3, 0.4), SIZE) == "{<10><20><30><40>}"


def test_spans_that_can_not_be_go() -> None:
    found = cut_at_spans("hello", [BoxSpan(0, 2), BoxSpan(1, 3), BoxSpan(4, 9), BoxSpan(3, 3), BoxSpan(3, 4, "x")])
    assert [part if isinstance(part, str) else part.markup for part in found] == ["he", "l", "l", "o"]
