"""Every annotation format, from small made files: byte-exact questions and answers, errors that say where."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.paths import DATA
from tests.training.data.small_data import COCO, FirstOf, make_shard
from tests.training.tiny_stages import aligned_captions, conversations, draw_pictures, write_json
from training.data import text
from training.data.annotations import Annotations, DataError, line_of_item, read_plain_pickle
from training.data.formats import FORMATS
from training.data.readers import DatasetPaths, DatasetReader, MissingImage, TrainingExample
from training.instructions import CAPTION_POOL

RECORDED = json.loads((DATA / "text_and_schedule.json").read_text())


def read(name: str, annotations: Path | str, images: Path, index: int = 0) -> tuple[TrainingExample, DatasetReader]:
    reader = FORMATS[name](DatasetPaths(annotations=str(annotations), images=images))
    return reader.example(index, FirstOf()), reader


def said(example: TrainingExample) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return example.questions, example.answers


@pytest.mark.parametrize("case", RECORDED["pre_caption"], ids=lambda case: case["in"][:20])
def test_recorded_captions(case: dict[str, str]) -> None:
    assert text.process_caption(case["in"]) == case["out"]


@pytest.mark.parametrize("case", RECORDED["refer_box_text"]["cases"], ids=lambda case: case["text"])
def test_recorded_box_text(case: dict[str, Any]) -> None:
    assert text.box_text(case["xywh"], tuple(case["size"])) == case["text"]


def test_webdataset_shards(tmp_path: Path) -> None:
    for number in (0, 2):
        make_shard(tmp_path / f"{number:05d}.tar", 3)
    example, reader = read("laion", tmp_path / "{00000..00002}.tar", tmp_path)
    assert example.questions == ("",)
    captions = {read("laion", tmp_path / "{00000..00002}.tar", tmp_path, i)[0].answers[0] for i in range(0, 9000, 1)}
    assert captions == {f"picture no {shard} {number}" for shard in ("00000", "00002") for number in range(3)}
    assert len({reader.image_path(index) for index in range(1000)}) == 1, "a block stays in its shard"
    assert said(reader.example(5000, FirstOf())) == said(reader.example(5000, FirstOf()))
    instructed, _ = read("laion_caption", tmp_path / "{00000..00002}.tar", tmp_path)
    assert instructed.questions == (CAPTION_POOL[0],)


def test_a_broken_picture_in_a_shard_is_a_missing_one(tmp_path: Path) -> None:
    make_shard(tmp_path / "0.tar", 1, broken=0)
    with pytest.raises(MissingImage, match=r"00000\.png"):
        read("cc_sbu", tmp_path / "0.tar", tmp_path)
    with pytest.raises(DataError, match="none of its 3 shards is there"):
        read("cc_sbu", tmp_path / "{7..9}.tar", tmp_path)


def test_captions(tmp_path: Path) -> None:
    aligned_captions(tmp_path / "align")
    assert said(read("cc_sbu_align", tmp_path / "align", tmp_path, 2)[0]) == (("",), ("a dog and 2 birds",))
    draw_pictures(tmp_path, [COCO, "abc.jpg"])
    items = [{"image": "val2014/x.jpg", "caption": "-"}, {"image": f"train2014/{COCO}", "caption": "A Dog."}]
    coco, reader = read("coco_caption", write_json(tmp_path / "coco.json", items), tmp_path)
    assert said(coco) == (("[caption] Briefly describe this image.",), ("a dog",))
    assert len(reader) == 1
    caps = write_json(tmp_path / "caps.json", {"data": [{"image_id": "abc", "caption_str": "A sign: (stop)"}]})
    assert read("textcaps_caption", caps, tmp_path)[0].answers == ("a sign stop",)


def test_questions(tmp_path: Path) -> None:
    draw_pictures(tmp_path, [COCO, "k1.png"])
    item = {"image": f"train2014/{COCO}", "question": "How Many?", "question_id": 3}
    gone = item | {"image": "gone.jpg", "answer": ["1"]}
    vqa = write_json(tmp_path / "vqa.json", [gone, item | {"answer": ["Two.", "two", "3"]}])
    for name in ("coco_vqa", "ok_vqa"):
        example, reader = read(name, vqa, tmp_path)
        assert said(example) == (("[vqa] how many?",), ("two",))
        assert len(reader) == 1, "items without a picture are left out"
    aok = write_json(tmp_path / "aok.json", [item | {"direct_answers": ["A Cat"]}])
    assert read("aok_vqa", aok, tmp_path)[0].answers == ("a cat",)
    gqa = write_json(tmp_path / "gqa.json", [item | {"image": COCO, "answer": "Yes"}])
    assert said(read("gqa", gqa, tmp_path)[0]) == (("[vqa] how many?",), ("yes",))
    book = {"imageURL": "http://x/y.png", "questions": ["Who?", "What?"], "answers": ["A. B.", "Art"], "split": 1}
    ocr = write_json(tmp_path / "ocr.json", {"k0": book | {"split": 2}, "k1": book})
    example, reader = read("ocrvqa", ocr, tmp_path, 1)
    assert said(example) == (("[vqa] what?",), ("art",))
    assert len(reader) == 2


def test_an_answer_is_drawn_as_often_as_people_gave_it(tmp_path: Path) -> None:
    draw_pictures(tmp_path, [COCO])
    item = {"image": COCO, "question": "?", "answer": ["yes", "yes", "yes", "no"]}
    reader = FORMATS["coco_vqa"](
        DatasetPaths(annotations=str(write_json(tmp_path / "v.json", [item])), images=tmp_path)
    )
    drawn = Counter(reader.example(0, Random(seed)).answers[0] for seed in range(200))
    assert 120 < drawn["yes"] < 180
    assert drawn["yes"] + drawn["no"] == 200


def refer_folder(folder: Path, split_by: str = "unc") -> Path:
    refs = [
        {"image_id": 7, "ann_id": 5, "split": "val", "sentences": [{"raw": "-"}]},
        {"image_id": 7, "ann_id": 5, "split": "train", "sentences": [{"raw": "The Red Ball."}]},
    ]
    folder.mkdir(parents=True)
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    write_json(folder / "instances.json", {"annotations": [{"id": 5, "bbox": [5, 3, 10.9, 6]}], "images": []})
    return folder


@pytest.mark.parametrize(("name", "split_by"), [("refcoco", "unc"), ("refcocop", "unc"), ("refcocog", "umd")])
def test_refer_and_its_inverse(name: str, split_by: str, tmp_path: Path) -> None:
    draw_pictures(tmp_path, [COCO])
    folder = refer_folder(tmp_path / name, split_by)
    example, reader = read(name, folder, tmp_path)
    assert said(example) == (("[refer] the red ball",), ("{<25><10><79><30>}",))
    assert len(reader) == 1
    inverse, _ = read(f"inv{name}", folder, tmp_path)
    assert said(inverse) == (("[identify] {<25><10><79><30>}",), ("the red ball",))


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match=r"it refers to os\.system"):
        read_plain_pickle(tmp_path / "refs(unc).p")


def test_visual_genome_regions(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "VG_100K", ["1.jpg"])
    write_json(tmp_path / "image_data.json", [{"image_id": 1, "url": "https://x/y/VG_100K/1.jpg"}])
    region = {"image_id": 1, "x": 2, "y": 3, "width": 4, "height": 6, "phrase": "A Small Dot"}
    regions = [region, region | {"width": 128, "height": 128}]
    write_json(tmp_path / "region_descriptions.json", [{"id": 1, "regions": regions}, {"id": 2, "regions": []}])
    example, reader = read("refvg", tmp_path, tmp_path)
    assert said(example) == (("[refer] a small dot",), ("{<10><10><30><30>}",))
    assert len(reader) == 1, "a region of 16384 pixels is too large"


def test_flickr(tmp_path: Path) -> None:
    draw_pictures(tmp_path, ["9.jpg"])
    item = {
        "image_id": 9,
        "grounded_caption": "<p>A man</p> {<1><2><3><4>} walks.",
        "caption": "A man walks.",
        "output": "<p>A man</p> {<1><2><3><4>}",
        "phrase": "A man",
        "bbox": "{<1><2><3><4>}<delim>{<5><6><7><8>}",
    }
    path = write_json(tmp_path / "f.json", [item])
    assert said(read("flickr_grounded_caption", path, tmp_path)[0]) == (
        ("[grounding] please describe this image in details",),
        (item["grounded_caption"],),
    )
    assert said(read("flickr_CaptionToPhrase", path, tmp_path)[0]) == (
        ("[detection] A man walks.",),
        (item["output"],),
    )
    assert said(read("flickr_ObjectToPhrase", path, tmp_path)[0]) == (
        ("[detection] A man",),
        ("<p>A man</p> {<1><2><3><4>}<delim>{<5><6><7><8>}",),
    )


def test_conversations(tmp_path: Path) -> None:
    conversations(tmp_path)
    path = tmp_path / "conversation_58k.json"
    for name in ("llava_conversation", "multitask_conversation"):
        assert said(read(name, path, tmp_path / "coco", 1)[0]) == (
            ("what is this 1", "where is it? 1"),
            ("a red ball 1", "on the left 1"),
        )
    for name in ("llava_detail", "llava_reason"):
        assert said(read(name, path, tmp_path / "coco")[0]) == (("what is this 0",), ("a red ball 0",))
    instance = {"instruction_with_input": "Write a Poem.", "constraints": "Be short.", "output": "The Sea!"}
    unnatural = [{"instances": [instance]}, {"instances": [instance | {"constraints": None}]}]
    file = write_json(tmp_path / "u.json", unnatural)
    assert said(read("unnatural_instruction", file, tmp_path)[0]) == (("write a poem be short",), ("the sea",))
    assert said(read("unnatural_instruction", file, tmp_path, 1)[0]) == (("write a poem",), ("the sea",))


@pytest.mark.parametrize("name", ["mgm_pretrain", "mgm_instruction", "mgm_generation", "moe_llava"])
def test_the_llava_lines_format(name: str, tmp_path: Path) -> None:
    draw_pictures(tmp_path, ["a.png", "b.png", "vg/images/1.jpg"])
    turns = [{"from": "human", "value": "What? <image>"}, {"from": "gpt", "value": "A dog."}]
    more = [{"from": "human", "value": "Draw it <GEN>"}, {"from": "gpt", "value": "<h>a dog</h>"}]
    items = [
        {"id": 1, "image": "a.jpg", "conversations": [*turns, *more]},  # OCR-VQA's pictures may be .png
        {
            "id": 2,
            "image": ["a.png", "b.png"],
            "conversations": [{"from": "human", "value": "<image><image>"}, turns[1]],
        },
        {"id": 3, "conversations": more},
        {"id": 4, "image": "vg/VG_100K_2/1.jpg", "conversations": turns},
    ]
    path = write_json(tmp_path / "x.json", items)
    first, reader = read(name, path, tmp_path)
    assert said(first) == (("What?", "Draw it <GEN>"), ("A dog.", "<h>a dog</h>"))
    assert len(first.images) == 1
    assert len(reader.example(1, FirstOf()).images) == 2
    assert reader.example(2, FirstOf()).images == ()
    assert [reader.has_image(index) for index in range(3)] == [True, True, False]
    assert reader.num_words(2) == 5
    assert reader.image_path(3) == tmp_path / "vg/images/1.jpg"
    assert len(reader.example(3, FirstOf()).images) == 1


BROKEN: list[tuple[str, Any, str]] = [
    (
        "coco_caption",
        [{"image": f"train/{COCO}", "caption": "x"}, {"image": "train/y.jpg"}],
        "line 6 .*field 'caption' is missing",
    ),
    ("gqa", [{"image": COCO, "question": 3, "answer": "x"}], "line 2 .*field 'question' is 3; it must be text"),
    ("coco_vqa", [{"image": COCO, "question": "?", "answer": []}], "field 'answer' must be a list of texts"),
    ("llava_detail", [{"id": "000000000007", "conversations": [{"value": "q"}]}], "the last has no answer"),
    (
        "llava_reason",
        [{"id": 1, "conversations": [{"value": "q"}, {"text": "a"}]}],
        r"field 'conversations\[1\]\.value'",
    ),
    ("unnatural_instruction", [{"instances": [{"output": "x"}]}], r"field 'instances\[0\]\.instruction_with_input'"),
    (
        "mgm_pretrain",
        [{"conversations": [{"from": "me", "value": "x"}]}],
        r"conversations\[0\]\.from' must be human or",
    ),
    ("moe_llava", [{"conversations": [{"from": "human", "value": "<image>"}]}], "1 <image>, but 0 images remain"),
    ("textcaps_caption", {"date": []}, "expected a list of items under the key 'data'"),
    ("ocrvqa", [], "expected a mapping of items"),
    ("gqa", [], "there are no items in it"),
]


def read_everything(name: str, annotations: Path, images: Path) -> None:
    reader = FORMATS[name](DatasetPaths(annotations=str(annotations), images=images))
    for index in range(len(reader)):
        reader.image_path(index)
        reader.example(index, FirstOf())


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=lambda value: str(value)[:24])
def test_errors_name_file_line_and_field(name: str, content: Any, message: str, tmp_path: Path) -> None:
    draw_pictures(tmp_path, [COCO, "y.jpg"])
    path = write_json(tmp_path / "broken.json", content)
    with pytest.raises(DataError, match=message) as raised:
        read_everything(name, path, tmp_path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_json_lines_are_called_by_their_name(tmp_path: Path) -> None:
    """They are whole: to download them again would not help."""
    file = tmp_path / "x.json"
    file.write_text('{"id": 1}\n\n{"id": 2}\n')
    with pytest.raises(
        DataError, match=r"x\.json, line 3: a value on every line \(JSON lines\), but .* is one list"
    ) as info:
        Annotations(file)
    assert "download" not in str(info.value)
    for second in ('{"id": ', "[" * 100_000):
        file.write_text(f'{{"id": 1}}\n{second}\n')
        with pytest.raises(DataError, match="not valid JSON"):
            Annotations(file)


def test_a_line_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[\n {"a": 1},\n {"a" 2}\n]')
    with pytest.raises(DataError, match=r"x\.json, line 3: not valid JSON"):
        Annotations(tmp_path / "x.json")


def test_lines_of_items() -> None:
    content = '{"info": {"a": [1, "]"]},\n "data": [\n{"x": "a\\"}\\n"},\n\n[2],\n7 ]}'
    assert [line_of_item(content, index, "data") for index in range(3)] == [3, 5, 6]
    assert [line_of_item('{"k0": 1,\n"k1":\n2}', index) for index in range(2)] == [1, 3]
