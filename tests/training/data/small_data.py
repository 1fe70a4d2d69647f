"""Small data sets in every annotation format, shards, and readers that have no files."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from tests.training.tiny_stages import write_json
from training.data.formats import FORMATS
from training.data.readers import DatasetPaths, DatasetReader, MissingImage, TrainingExample, make_example

COCO = "COCO_train2014_000000000007.jpg"  # 20 x 30 pixels


class FirstOf(Random):
    """Takes the first of everything, so that a test can say which."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


def make_shard(path: Path, count: int, *, broken: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
            caption = json.dumps({"caption": f"Picture No. {path.stem} {number}!"}).encode()
            picture = b"no picture" if number == broken else buffer.getvalue()
            for suffix, content in (("png", picture), ("json", caption), ("txt", b"unused")):
                info = tarfile.TarInfo(f"{number:05d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


class Numbers(DatasetReader):
    """`size` examples that are their own index; those in `gone` have no picture."""

    def __init__(self, size: int, gone: frozenset[int] = frozenset()) -> None:
        super().__init__(DatasetPaths(annotations="", images=Path()))
        self.size, self.gone = size, gone

    def __len__(self) -> int:
        return self.size

    def image_path(self, index: int) -> Path | None:
        return Path() if index % 2 else None

    def check(self, index: int) -> None: ...

    def num_words(self, index: int) -> int:
        return index

    def example(self, index: int, rng: Random) -> TrainingExample:
        if index in self.gone:
            raise MissingImage(f"{index}.jpg")
        return make_example((str(index),), (str(rng.random()),))


Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Case:
    """A small data set of a format: `files` by name, and the `fields` that its reader uses, by their place.

    `annotations` is what a recipe names, "" for the folder; `optional` fields may be missing.
    """

    files: dict[str, Any]
    fields: dict[str, tuple[Place, ...]]
    annotations: str = "x.json"
    optional: tuple[Place, ...] = field(default=())


TURNS = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a dog"}]
VALUES = [{"value": "what?"}, {"value": "a dog"}]
FLICKR = {"image_id": 9, "grounded_caption": "a", "caption": "a man", "output": "b", "phrase": "c", "bbox": "d"}
REGION = {"image_id": 9, "x": 1, "y": 2, "width": 3, "height": 4, "phrase": "a dot"}
BOOK = {"imageURL": "http://x/9.png", "questions": ["who?"], "answers": ["I"], "split": 1}
REF = {"image_id": 7, "ann_id": 5, "split": "train", "sentences": [{"raw": "the ball"}]}
CONVERSATIONS: tuple[Place, ...] = ((0, "id"), (0, "conversations"), (0, "conversations", 1, "value"))


def _list(item: dict[str, Any], *names: str) -> Case:
    return Case({"x.json": [item]}, {"x.json": tuple((0, name) for name in names)})


def _vqa(answers: str) -> Case:
    return _list({"image": COCO, "question": "?", answers: ["yes"]}, "image", "question", answers)


def _refer(split_by: str) -> Case:
    fields: tuple[Place, ...] = tuple((0, name) for name in REF)
    return Case(
        {f"refs({split_by}).p": [REF], "instances.json": {"annotations": [{"id": 5, "bbox": [1, 2, 3, 4]}]}},
        {
            f"refs({split_by}).p": (*fields, (0, "sentences", 0, "raw")),
            "instances.json": (("annotations", 0, "id"), ("annotations", 0, "bbox")),
        },
        annotations="",
    )


_CONVERSATION = Case({"x.json": [{"id": "000000000007", "conversations": VALUES}]}, {"x.json": CONVERSATIONS})
_LLAVA = Case(
    {"x.json": [{"id": 1, "image": COCO, "conversations": TURNS}]},
    {
        "x.json": (
            (0, "conversations"),
            (0, "conversations", 0, "from"),
            (0, "conversations", 1, "value"),
            (0, "image"),
        )
    },
    optional=((0, "image"),),
)


_UNNATURAL = {"instances": [{"instruction_with_input": "do", "constraints": "so", "output": "done"}]}
CASES: dict[str, Case] = {
    "cc_sbu_align": Case(
        {"filter_cap.json": {"annotations": [{"image_id": 9, "caption": "a dog"}]}},
        {"filter_cap.json": (("annotations", 0, "image_id"), ("annotations", 0, "caption"))},
        annotations="",
    ),
    "coco_caption": _list({"image": f"train/{COCO}", "caption": "a dog"}, "image", "caption"),
    "textcaps_caption": Case(
        {"x.json": {"data": [{"image_id": "9", "caption_str": "a"}]}},
        {"x.json": (("data", 0, "image_id"), ("data", 0, "caption_str"))},
    ),
    "coco_vqa": _vqa("answer"),
    "ok_vqa": _vqa("answer"),
    "aok_vqa": _vqa("direct_answers"),
    "gqa": _list({"image": COCO, "question": "?", "answer": "yes"}, "image", "question", "answer"),
    "ocrvqa": Case({"x.json": {"9": BOOK}}, {"x.json": tuple(("9", name) for name in BOOK)}),
    **{f"{inverse}{name}": _refer("umd" if name == "refcocog" else "unc")
       for name in ("refcoco", "refcocop", "refcocog") for inverse in ("", "inv")},
    "refvg": Case(
        {
            "region_descriptions.json": [{"id": 9, "regions": [REGION]}],
            "image_data.json": [{"image_id": 9, "url": "https://x/VG_100K/9.jpg"}],
        },
        {
            "region_descriptions.json": tuple((0, "regions", 0, name) for name in REGION),
            "image_data.json": ((0, "image_id"), (0, "url")),
        },
        annotations="",
    ),
    "flickr_grounded_caption": _list(FLICKR, "image_id", "grounded_caption"),
    "flickr_CaptionToPhrase": _list(FLICKR, "image_id", "caption", "output"),
    "flickr_ObjectToPhrase": _list(FLICKR, "image_id", "phrase", "bbox"),
    **dict.fromkeys(("llava_conversation", "llava_detail", "llava_reason", "multitask_conversation"), _CONVERSATION),
    "unnatural_instruction": Case(
        {"x.json": [_UNNATURAL]},
        {"x.json": ((0, "instances"), *((0, "instances", 0, name) for name in _UNNATURAL["instances"][0]))},
        optional=((0, "instances", 0, "constraints"),),
    ),
    **dict.fromkeys(("mgm_pretrain", "mgm_instruction", "mgm_generation", "moe_llava"), _LLAVA),
}  # fmt: skip


IN_SHARDS = {"laion", "cc_sbu", "laion_caption", "cc_sbu_caption"}
WITHOUT_FILES = {"scenes_boxes", "scenes_chat"}


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        if name.endswith(".p"):
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        else:
            write_json(folder / name, content)


def open_reader(name: str, folder: Path) -> DatasetReader:
    return FORMATS[name](DatasetPaths(annotations=str(folder / CASES[name].annotations), images=folder))
