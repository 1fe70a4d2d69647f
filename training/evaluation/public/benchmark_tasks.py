"""The benchmarks: what is asked about which picture, and the figures of all answers.

Annotation files are those the original scripts read. Questions for models with task identifiers are MiniGPT-v2's; the
LLaVA line is asked in the words it was trained with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.annotations import Annotation, Annotations, DataError
from training.data.readers import picture_named
from training.evaluation.public import cider, scores

Figures = dict[str, float]

_COCO_NAME = re.compile(r"COCO_(train|val)2014_\d{12}")


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One item: `key` names it in the predictions, `truth` is what the task's figures compare the answer with."""

    key: str
    image: Path
    text: str
    truth: Any
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Files:
    """What a benchmark reads: `questions` only where they are apart from the answers (VQAv2, OK-VQA)."""

    annotations: Path
    images: Path
    questions: Path | None = None


@dataclass(frozen=True)
class Benchmark:
    """`read` gives the questions (told whether the model knows task identifiers), `score` the answers' figures.

    `check_installed` raises ConfigError for what `score` lacks, before anything is asked.
    """

    read: Callable[[Files, bool], list[BenchmarkQuestion]]
    score: Callable[[Sequence[str], Sequence[BenchmarkQuestion]], Figures]
    max_new_tokens: int = 20
    needs_boxes: bool = False
    check_installed: Callable[[], None] | None = None


def short_answer(question: str, knows_tasks: bool) -> str:
    """A question that wants a short answer."""
    if knows_tasks:
        return f"[vqa] Based on the image, respond to this question with a short answer: {question}"
    return f"{question}\nAnswer the question using a single word or phrase."


def read_lines(path: Path) -> list[Annotation]:
    """A JSON-lines file. Raises DataError with file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read ({error}); set --annotations.") from error
    items = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                items.append(Annotation(json.loads(line), lambda where=where: where))  # type: ignore[misc]  # bound early
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not valid JSON.") from error
    return items


def read_refer(files: Files, knows_tasks: bool) -> list[BenchmarkQuestion]:
    """RefCOCO, RefCOCO+, RefCOCOg as MiniGPT-v2 prepared them: {img_id, sents, bbox, height, width}."""
    del knows_tasks
    questions = []
    for number, item in enumerate(Annotations(files.annotations)):
        x, y, width, height = item.numbers("bbox", 4)
        truth = ((x, y, x + width, y + height), (item.get("width", float), item.get("height", float)))
        name = item.text("img_id")
        # COCO's name of the picture; what follows it numbers the reference. Other pictures are named as they are.
        coco = _COCO_NAME.match(name)
        image = picture_named(files.images, coco[0] if coco else name)
        text = f"[refer] give me the location of {item.text('sents')}"
        questions.append(BenchmarkQuestion(f"{number}-{name}", image, text, truth))
    return questions


def score_refer(answers: Sequence[str], questions: Sequence[BenchmarkQuestion]) -> Figures:
    """Accuracy at an IoU of 0.5; an answer without a box is wrong, and counted."""
    hits = [scores.refer_hit(a, *question.truth) for a, question in zip(answers, questions, strict=True)]
    return {
        "accuracy@0.5": sum(hit or 0.0 for hit in hits) / len(hits),
        "without_box": sum(hit is None for hit in hits) / len(hits),
    }


def read_vqa(files: Files, knows_tasks: bool) -> list[BenchmarkQuestion]:
    """VQAv2 and OK-VQA in the official form: questions and annotations by `question_id`, COCO's validation pictures."""
    if files.questions is None:
        raise DataError("This task needs --questions, the official questions file, beside --annotations.")
    texts = {q.get("question_id", int): q for q in Annotations(files.questions, key="questions")}
    questions = []
    for item in Annotations(files.annotations, key="annotations"):
        number = item.get("question_id", int)
        if number not in texts:
            raise DataError(f"{item.where()}: field 'question_id' is {number}, which {files.questions} does not have.")
        image = files.images / f"COCO_val2014_{item.get('image_id', int):012d}.jpg"
        truth = [answer.text("answer") for answer in item.items("answers")]
        questions.append(
            BenchmarkQuestion(str(number), image, short_answer(texts[number].text("question"), knows_tasks), truth)
        )
    return questions


def score_vqa(answers: Sequence[str], questions: Sequence[BenchmarkQuestion]) -> Figures:
    """The official soft accuracy."""
    return {"accuracy": mean(scores.vqa_accuracy(a, q.truth) for a, q in zip(answers, questions, strict=True))}


def score_okvqa(answers: Sequence[str], questions: Sequence[BenchmarkQuestion]) -> Figures:
    """MiniGPT-v2's soft accuracy."""
    return {"accuracy": mean(scores.okvqa_accuracy(a, q.truth) for a, q in zip(answers, questions, strict=True))}


def read_gqa(files: Files, knows_tasks: bool) -> list[BenchmarkQuestion]:
    """A list {image, question, answer}."""
    return [
        BenchmarkQuestion(
            str(n), files.images / i.text("image"), short_answer(i.text("question"), knows_tasks), i.text("answer")
        )
        for n, i in enumerate(Annotations(files.annotations))
    ]


def score_exact(answers: Sequence[str], questions: Sequence[BenchmarkQuestion]) -> Figures:
    """Equal up to case."""
    return {"accuracy": mean(scores.exact_match(a, q.truth) for a, q in zip(answers, questions, strict=True))}


def read_vizwiz(files: Files, knows_tasks: bool) -> list[BenchmarkQuestion]:
    """A list {image, question, answers: [{answer}]}."""
    questions = []
    for number, item in enumerate(Annotations(files.annotations)):
        text = (
            f"The question is '{item.text('question')}' Based on the image, answer the question with a single word or "
            "phrase. and reply 'unanswerable' when the provided information is insufficient"
        )
        truth = [answer.text("answer") for answer in item.items("answers")]
        prompt = f"[vqa] {text}" if knows_tasks else text
        questions.append(BenchmarkQuestion(str(number), files.images / item.text("image"), prompt, truth))
    return questions


def score_vizwiz(answers: Sequence[str], questions: Sequence[BenchmarkQuestion]) -> Figures:
    """How many of the people said it, three at least for a full point."""
    return {"accuracy": mean(scores.vizwiz_accuracy(a, q.truth) for a, q in zip(answers, questions, strict=True))}


def read_iconqa(files: Files, knows_tasks: bool) -> list[BenchmarkQuestion]:
    """A list {image_id, question, choices, answer}; the answer is a choice or its number; pictures in folders."""
    questions = []
    for number, item in enumerate(Annotations(files.annotations)):
        choices = tuple(item.texts("choices"))
        answer = item.values.get("answer")
        is_number = isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices)
        truth = choices[answer] if is_number else item.text("answer")
        image = files.images / item.identifier("image_id") / "image.png"
        questions.append(
            BenchmarkQuestion(str(number), image, short_answer(item.text("question"), knows_tasks), truth, choices)
        )
    return questions


def read_vsr(files: Files, knows_tasks: bool) -> list[BenchmarkQuestion]:
    """Visual Spatial Reasoning, JSON lines {image, caption, label: 0 | 1}."""
    tag = "[vqa] " if knows_tasks else ""
    return [
        BenchmarkQuestion(
            str(number),
            files.images / item.text("image"),
            f"{tag}Based on the image, is this statement true or false? {item.text('caption')}",
            item.one_of("label", {"0": "false", "1": "true"}),
        )
        for number, item in enumerate(read_lines(files.annotations))
    ]


def read_hateful_memes(files: Files, knows_tasks: bool) -> list[BenchmarkQuestion]:
    """Hateful Memes, JSON lines {id, img, label: 0 | 1, text}."""
    del knows_tasks
    return [
        BenchmarkQuestion(
            item.identifier("id"),
            files.images / item.text("img"),
            f"This is an image writting '{item.text('text')}'. Is this image hateful? Answer yes or no. Answer:",
            item.one_of("label", {"0": "no", "1": "yes"}),
        )
        for item in read_lines(files.annotations)
    ]


def read_pope(files: Files, knows_tasks: bool) -> list[BenchmarkQuestion]:
    """POPE, JSON lines {question_id, image, text, label: yes | no}."""
    return [
        BenchmarkQuestion(
            f"{number}-{item.identifier('question_id')}",
            files.images / item.text("image"),
            short_answer(item.text("text"), knows_tasks),
            item.one_of("label", {"yes": True, "no": False}),
        )
        for number, item in enumerate(read_lines(files.annotations))
    ]


def score_pope(answers: Sequence[str], questions: Sequence[BenchmarkQuestion]) -> Figures:
    """Accuracy, precision, recall, F1, share of yes."""
    return dict(vars(scores.yes_no_figures([scores.says_yes(a) for a in answers], [q.truth for q in questions])))


def read_captions(files: Files, knows_tasks: bool) -> list[BenchmarkQuestion]:
    """Captions in COCO's form: {images: [{id, file_name}], annotations: [{image_id, caption}]}."""
    captions: dict[int, list[str]] = {}
    for item in Annotations(files.annotations, key="annotations"):
        captions.setdefault(item.get("image_id", int), []).append(item.text("caption"))
    prompt = (
        "[caption] Briefly describe this image." if knows_tasks else "Provide a one-sentence caption for the image."
    )
    return [
        BenchmarkQuestion(str(number), files.images / item.text("file_name"), prompt, captions[number])
        for item in Annotations(files.annotations, key="images")
        if (number := item.get("id", int)) in captions
    ]


def score_captions(answers: Sequence[str], questions: Sequence[BenchmarkQuestion]) -> Figures:
    """CIDEr."""
    return {"CIDEr": cider.score(answers, [question.truth for question in questions])}


def mean(values: Any) -> float:
    """The mean of at least one number."""
    collected = list(values)
    return sum(collected) / len(collected)


BENCHMARKS: Mapping[str, Benchmark] = {
    **{name: Benchmark(read_refer, score_refer, needs_boxes=True) for name in ("refcoco", "refcoco+", "refcocog")},
    "vqav2": Benchmark(read_vqa, score_vqa),
    "okvqa": Benchmark(read_vqa, score_okvqa),
    "gqa": Benchmark(read_gqa, score_exact),
    "vizwiz": Benchmark(read_vizwiz, score_vizwiz),
    "iconqa": Benchmark(read_iconqa, score_exact),
    "vsr": Benchmark(read_vsr, score_exact),
    "hateful_memes": Benchmark(read_hateful_memes, score_exact),
    "pope": Benchmark(read_pope, score_pope),
    "caption": Benchmark(read_captions, score_captions, max_new_tokens=60, check_installed=cider.check_installed),
}
