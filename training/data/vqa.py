"""Visual question answering: VQAv2, OK-VQA, A-OKVQA, GQA, OCR-VQA."""

from __future__ import annotations

from pathlib import Path
from random import Random

from training.data.annotations import Annotation, Annotations, DataError
from training.data.readers import (
    DatasetPaths,
    DatasetReader,
    JsonReader,
    TrainingExample,
    by_base_name,
    make_example,
    open_image,
)
from training.data.text import process_caption
from training.instructions import VQA_POOL


class VqaReader(JsonReader):
    """{image, question, answer: [...]}: VQAv2 and OK-VQA. Source: MiniGPT-4, `COCOVQADataset`.

    The answer is drawn as often as people gave it. Items without a picture are left out from the start.
    """

    wants_existing_images = True
    answers_field = "answer"

    def file_of(self, item: Annotation) -> Path:
        return by_base_name(self.paths.images, item.text("image"))

    def turn(self, item: Annotation, rng: Random, size: tuple[int, int]) -> tuple[str, str]:  # noqa: ARG002
        # Drawing from the list itself is drawing by frequency.
        answer = rng.choice(item.texts(self.answers_field))
        return rng.choice(VQA_POOL).format(process_caption(item.text("question"))), process_caption(answer)


class AokVqaReader(VqaReader):
    """A-OKVQA: the answers are in `direct_answers`."""

    answers_field = "direct_answers"


class GqaReader(JsonReader):
    """`train_balanced_questions.json` as a list {image, question, answer}. Source: MiniGPT-4, `GQADataset`."""

    def file_of(self, item: Annotation) -> Path:
        return self.paths.images / item.text("image")

    def turn(self, item: Annotation, rng: Random, size: tuple[int, int]) -> tuple[str, str]:  # noqa: ARG002
        question = process_caption(item.text("question"))
        return rng.choice(VQA_POOL).format(question), process_caption(item.text("answer"))


class OcrVqaReader(DatasetReader):
    """OCR-VQA's `dataset.json`: {key: {imageURL, questions, answers, split}}, the training split (1) only."""

    TRAINING_SPLIT = 1

    def __init__(self, paths: DatasetPaths) -> None:
        super().__init__(paths)
        self.items = Annotations(Path(paths.annotations), keyed=True)
        self.pairs: list[tuple[int, int]] = []
        for index in range(len(self.items)):
            item = self.items[index]
            if item.get("split", int) == self.TRAINING_SPLIT:
                questions, answers = item.texts("questions"), item.texts("answers")
                if len(questions) != len(answers):
                    raise DataError(
                        f"{item.where()}: field 'answers' has {len(answers)} texts for {len(questions)} questions."
                    )
                self.pairs += [(index, number) for number in range(len(questions))]

    def __len__(self) -> int:
        return len(self.pairs)

    def image_path(self, index: int) -> Path:
        number, _ = self.pairs[index]
        return self.paths.images / (self.items.name_of(number) + Path(self.items[number].text("imageURL")).suffix)

    def check(self, index: int) -> None:
        self.image_path(index)  # the rest was looked at when the file was read

    def example(self, index: int, rng: Random) -> TrainingExample:
        number, question_number = self.pairs[index]
        item = self.items[number]
        question = process_caption(item.texts("questions")[question_number])
        answer = process_caption(item.texts("answers")[question_number])
        return make_example((rng.choice(VQA_POOL).format(question),), (answer,), (open_image(self.image_path(index)),))
