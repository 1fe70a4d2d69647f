"""Boxes: RefCOCO, RefCOCO+, RefCOCOg and their inverse, Visual Genome, Flickr30k with grounded phrases."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random

from PIL import Image

from training.data.annotations import Annotation, Annotations, DataError, read_plain_pickle
from training.data.readers import (
    DatasetPaths,
    DatasetReader,
    JsonReader,
    TrainingExample,
    make_example,
    open_image,
    picture_named,
)
from training.data.text import box_text, process_caption
from training.instructions import DETECTION_POOL, GROUNDING_POOL, IDENTIFY_POOL, REFER_POOL

MAX_REGION_PIXELS = 16384  # Visual Genome: only regions smaller than this are referred to (after OFA)


class ReferReader(DatasetReader):
    """A REFER folder: `refs(SPLIT_BY).p` and `instances.json`, the split "train"; one of a reference's sentences.

    `annotations` is the folder of one data set, `…/refcoco`. Source: MiniGPT-4, `ReferCOCODataset`, `REFER`.
    """

    def __init__(self, paths: DatasetPaths, *, split_by: str) -> None:
        super().__init__(paths)
        folder = Path(paths.annotations)
        source = folder / f"refs({split_by}).p"
        refs = read_plain_pickle(source)
        if not isinstance(refs, list):
            raise DataError(f"{source}: expected a list of references; is it REFER's file?")
        wheres = [partial("{}, reference {}".format, source, number) for number in range(len(refs))]
        items = [Annotation(values, where) for values, where in zip(refs, wheres, strict=True)]
        self.refs = [item for item in items if item.text("split") == "train"]
        annotations = Annotations(folder / "instances.json", key="annotations")
        self.boxes = {item.get("id", int): item for item in annotations}

    def __len__(self) -> int:
        return len(self.refs)

    def image_path(self, index: int) -> Path:
        return self.paths.images / f"COCO_train2014_{self.refs[index].get('image_id', int):012d}.jpg"

    def sentences_and_box(self, index: int) -> tuple[list[str], list[float]]:
        """All sentences as they stand, and the box as x, y, width, height in pixels."""
        ref = self.refs[index]
        sentences = [sentence.text("raw") for sentence in ref.items("sentences")]
        number = ref.get("ann_id", int)
        if number not in self.boxes:
            raise DataError(f"{ref.where()}: field 'ann_id' is {number}, which instances.json does not have.")
        return sentences, self.boxes[number].numbers("bbox", 4)

    def check(self, index: int) -> None:
        self.image_path(index)
        self.sentences_and_box(index)

    def sentence_and_box(self, index: int, rng: Random) -> tuple[Image.Image, str, str]:
        """The picture, a processed sentence and the box's text."""
        sentences, box = self.sentences_and_box(index)
        image = open_image(self.image_path(index))
        return image, process_caption(rng.choice(sentences)), box_text(box, image.size)

    def example(self, index: int, rng: Random) -> TrainingExample:
        image, sentence, box = self.sentence_and_box(index, rng)
        return make_example((rng.choice(REFER_POOL).format(sentence),), (box,), (image,))


class InverseReferReader(ReferReader):
    """The same the other way round: which phrase belongs to a box."""

    def example(self, index: int, rng: Random) -> TrainingExample:
        image, sentence, box = self.sentence_and_box(index, rng)
        # Processed twice, as the original does; a sentence of more than 50 words aside it changes nothing.
        return make_example((rng.choice(IDENTIFY_POOL).format(box),), (process_caption(sentence),), (image,))


class VisualGenomeRegions(DatasetReader):
    """`region_descriptions.json` and `image_data.json` in the folder `annotations`; pictures under `VG_100K*/`."""

    def __init__(self, paths: DatasetPaths) -> None:
        super().__init__(paths)
        folder = Path(paths.annotations)
        self.urls = {item.get("image_id", int): item.text("url") for item in Annotations(folder / "image_data.json")}
        self.regions: list[Annotation] = []
        for image in Annotations(folder / "region_descriptions.json"):
            regions = image.items("regions") if image.get("regions", list) else []
            for region in regions:
                if region.get("width", float) * region.get("height", float) < MAX_REGION_PIXELS:
                    self.regions.append(region)

    def __len__(self) -> int:
        return len(self.regions)

    def image_path(self, index: int) -> Path:
        region = self.regions[index]
        number = region.get("image_id", int)
        if number not in self.urls:
            raise DataError(f"{region.where()}: field 'image_id' is {number}, which image_data.json does not have.")
        return self.paths.images.joinpath(*self.urls[number].split("/")[-2:])

    def phrase_and_box(self, index: int) -> tuple[str, list[float]]:
        """The phrase as it stands, and the box as x, y, width, height in pixels."""
        region = self.regions[index]
        return region.text("phrase"), [region.get(field, float) for field in ("x", "y", "width", "height")]

    def check(self, index: int) -> None:
        self.image_path(index)
        self.phrase_and_box(index)

    def example(self, index: int, rng: Random) -> TrainingExample:
        phrase, box = self.phrase_and_box(index)
        image = open_image(self.image_path(index))
        question = rng.choice(REFER_POOL).format(process_caption(phrase))
        return make_example((question,), (box_text(box, image.size),), (image,))


class _Flickr(JsonReader):
    """Flickr30k pictures by `image_id`."""

    def file_of(self, item: Annotation) -> Path:
        return picture_named(self.paths.images, item.identifier("image_id"))


class FlickrGroundedCaptions(_Flickr):
    """`groundedcaption.json`: a caption whose phrases have boxes, as it stands."""

    def turn(self, item: Annotation, rng: Random, size: tuple[int, int]) -> tuple[str, str]:  # noqa: ARG002
        return rng.choice(GROUNDING_POOL), item.text("grounded_caption")


class FlickrCaptionToPhrases(_Flickr):
    """`captiontobbox.json`: every phrase of a caption with its boxes."""

    def turn(self, item: Annotation, rng: Random, size: tuple[int, int]) -> tuple[str, str]:  # noqa: ARG002
        return rng.choice(DETECTION_POOL).format(item.text("caption")), item.text("output")


class FlickrPhraseToBoxes(_Flickr):
    """`phrasetobbox.json`: one phrase and its boxes."""

    def turn(self, item: Annotation, rng: Random, size: tuple[int, int]) -> tuple[str, str]:  # noqa: ARG002
        phrase = item.text("phrase")
        return rng.choice(DETECTION_POOL).format(phrase), f"<p>{phrase}</p> {item.text('bbox')}"
