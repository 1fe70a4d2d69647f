"""Captions: image-text pairs in webdataset shards, cc_sbu_align, COCO and TextCaps."""

from __future__ import annotations

from pathlib import Path
from random import Random

from training.data.annotations import Annotation
from training.data.readers import (
    DatasetPaths,
    DatasetReader,
    JsonReader,
    TrainingExample,
    by_base_name,
    make_example,
    picture_named,
)
from training.data.shards import Shards
from training.data.text import process_caption
from training.instructions import CAPTION_POOL


class ShardCaptions(DatasetReader):
    """LAION, CC3M, CC12M and SBU as webdataset shards (made with img2dataset): `jpg` and `json` with `caption`.

    `annotations` is a path with braces, `laion_dataset/{00000..10488}.tar`. The picture alone is the prompt, or
    (`instructed`) a `[caption]` instruction comes with it. Source: MiniGPT-4, `LaionDataset`.
    """

    is_stream = True

    def __init__(self, paths: DatasetPaths, *, instructed: bool = False) -> None:
        super().__init__(paths)
        self.instructed = instructed
        self.shards = Shards(paths.annotations)
        self.num_left_out = self.shards.num_missing

    def __len__(self) -> int:
        return len(self.shards)

    def image_path(self, index: int) -> Path:
        return self.shards.path_of(index)

    def check(self, index: int) -> None:
        """Fields lie in the shards beside the pictures and are looked at with them."""

    def example(self, index: int, rng: Random) -> TrainingExample:
        image, values = self.shards.sample(index, rng)
        question = rng.choice(CAPTION_POOL) if self.instructed else ""
        return make_example((question,), (process_caption(values.text("caption")),), (image,))


class AlignedCaptions(JsonReader):
    """cc_sbu_align: `filter_cap.json` beside `image/`. The question is MiniGPT-4's alignment prompt.

    `annotations` is the folder. Source: MiniGPT-4, `CCSBUAlignDataset`.
    """

    key = "annotations"

    def __init__(self, paths: DatasetPaths) -> None:
        folder = Path(paths.annotations)
        super().__init__(DatasetPaths(annotations=str(folder / "filter_cap.json"), images=folder / "image"))

    def file_of(self, item: Annotation) -> Path:
        return picture_named(self.paths.images, item.identifier("image_id"))

    def turn(self, item: Annotation, rng: Random, size: tuple[int, int]) -> tuple[str, str]:  # noqa: ARG002
        return "", item.text("caption")


class CocoCaptions(JsonReader):
    """`coco_karpathy_train.json`; only items whose picture is one of COCO's training pictures."""

    def is_kept(self, item: Annotation) -> bool:
        return "train" in item.text("image")

    def file_of(self, item: Annotation) -> Path:
        return by_base_name(self.paths.images, item.text("image"))

    def turn(self, item: Annotation, rng: Random, size: tuple[int, int]) -> tuple[str, str]:  # noqa: ARG002
        return rng.choice(CAPTION_POOL), process_caption(item.text("caption"))


class TextCaps(JsonReader):
    """`TextCaps_0.1_train.json`."""

    key = "data"

    def file_of(self, item: Annotation) -> Path:
        return picture_named(self.paths.images, item.identifier("image_id"))

    def turn(self, item: Annotation, rng: Random, size: tuple[int, int]) -> tuple[str, str]:  # noqa: ARG002
        return rng.choice(CAPTION_POOL), process_caption(item.text("caption_str"))
