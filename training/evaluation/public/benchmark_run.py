"""Ask a model the questions of a benchmark, several at a time, and go on where an earlier run was stopped."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from engine.chat_engine import ChatEngine
from engine.question_runner import QuestionRunner, TurnsAndSampling, answered
from models.conversation import Sampling, Turn
from models.disk import one_line_if_full, written_whole
from models.errors import ConfigError
from models.vision_language_model import IGNORED_LABEL, VisionLanguageModel
from training.data.annotations import Annotation, DataError
from training.data.llava_sequences import make_llava_batch
from training.data.readers import MissingImage, open_image
from training.evaluation.public.benchmark_tasks import BENCHMARKS, BenchmarkQuestion, Figures, Files
from training.evaluation.public.result_tables import write_result

CONCURRENT = 16

Answerer = Callable[[Sequence[BenchmarkQuestion]], Iterable[tuple[BenchmarkQuestion, str]]]


class Predictions:
    """Answers by the key of their question, kept in a JSON-lines file that grows with each; safe for threads.

    A last line that was cut off when a run was killed is dropped. Raises DataError if the file is of another task.
    """

    def __init__(self, path: Path, *, task: str) -> None:
        self._path, self._task, self._lock = path, task, threading.Lock()
        self.answers: dict[str, str] = {}
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        complete = [line for line in lines if line.endswith("\n")]
        for number, line in enumerate(complete, start=1):
            where = f"{path}, line {number}"
            try:
                entry = Annotation(json.loads(line), lambda where=where: where)  # type: ignore[misc]  # bound early
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not valid JSON; delete the line to ask its question again.") from error
            if entry.text("task") != task:
                raise DataError(f"{where}: predictions of the task {entry.text('task')}; choose another --output.")
            self.answers[entry.text("key")] = entry.text("answer")
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(complete) < len(lines):
            with written_whole(path) as partial:
                partial.write_text("".join(complete), encoding="utf-8")

    def add(self, question: BenchmarkQuestion, answer: str) -> None:
        """Keep an answer, here and in the file."""
        entry = {"task": self._task, "key": question.key, "question": question.text, "answer": answer}
        with self._lock, one_line_if_full(self._path):
            size = self._path.stat().st_size if self._path.is_file() else 0
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
            except OSError:
                os.truncate(self._path, size)  # half a line would spoil the next one
                raise
            self.answers[question.key] = answer


def benchmark_answerer(engine: ChatEngine, max_new_tokens: int) -> Answerer:
    """Greedy answers of a running engine."""
    sampling = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=max_new_tokens)

    def prepare(question: BenchmarkQuestion) -> TurnsAndSampling:
        return [Turn("user", question.text, (open_image(question.image),))], sampling

    def answer(questions: Sequence[BenchmarkQuestion]) -> Iterator[tuple[BenchmarkQuestion, str]]:
        runner = QuestionRunner(engine, prepare, at_once=CONCURRENT)
        for question, found in answered(runner.run(questions)):
            yield question, found.text

    return answer


def choice_answerer(model: VisionLanguageModel) -> Answerer:
    """The choice that the model finds likeliest: the lowest sum of its tokens' losses, end of answer included.

    MiniGPT-v2's IconQA also divides by the padded length, which is the same for all choices.
    """

    @torch.inference_mode()
    def choose(question: BenchmarkQuestion) -> str:
        turn = Turn("user", question.text, (open_image(question.image),))
        conversations = [[turn, Turn("assistant", choice)] for choice in question.choices]
        batch = make_llava_batch(model, conversations, max_tokens=model.info.context_tokens)
        logits = model(**vars(batch)).logits
        losses = cross_entropy(
            logits[:, :-1].float().transpose(1, 2), batch.labels[:, 1:], ignore_index=IGNORED_LABEL, reduction="none"
        )
        return question.choices[int(losses.sum(dim=1).argmin())]

    return lambda questions: ((question, choose(question)) for question in questions)


def answer_all(questions: Sequence[BenchmarkQuestion], predictions: Predictions, answerer: Answerer) -> list[str]:
    """The answers in the order of the questions; asks only those without one. Raises DataError for a lost picture."""
    left = [question for question in questions if question.key not in predictions.answers]
    try:
        for question, answer in answerer(left):
            predictions.add(question, answer)
    except MissingImage as error:
        raise DataError(f"{error}; set --images to the folder of the pictures.") from error
    return [predictions.answers[question.key] for question in questions]


def check_same_run(output: Path, circumstances: Mapping[str, Any]) -> None:
    """Predictions in a folder are of one model and one annotation file. Raises DataError if it holds those of others.

    What they are of stands in `output`/run.json.
    """
    path = output / "run.json"
    if not path.is_file():
        with written_whole(path) as partial:
            partial.write_text(json.dumps(circumstances, indent=2) + "\n", encoding="utf-8")
    recorded = json.loads(path.read_text(encoding="utf-8"))
    for name, value in circumstances.items():
        if recorded.get(name) != value:
            raise DataError(
                f"{path}: the predictions there are of another {name} ({recorded.get(name)}, not {value}); choose "
                "another --output, or delete the folder."
            )


def _state(path: Path | None) -> str | None:
    """A file's place, size and age, to notice that it was changed."""
    if path is None or not path.is_file():
        return None
    found = path.stat()
    changed = datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds")
    return f"{path.absolute()}, {found.st_size} bytes, {changed}"


def run_benchmark(
    model: VisionLanguageModel,
    task: str,
    files: Files,
    output: Path,
    *,
    limit: int | None = None,
    source: Path | None = None,
) -> Figures:
    """The figures of a task, which go to `output`/results.json, and the predictions to `output`/predictions.jsonl.

    `source` is the file that the model was loaded from. Raises DataError for wrong files, or a folder with predictions
    of another model or file.
    """
    benchmark = BENCHMARKS[task]
    if benchmark.needs_boxes and not any(known.gives_boxes for known in model.info.tasks):
        raise ConfigError(f"{task} asks for boxes, which {model.info.name} does not give.")
    if benchmark.check_installed is not None:
        benchmark.check_installed()
    knows_tasks = any(known.identifier == "[vqa]" for known in model.info.tasks)
    questions = benchmark.read(files, knows_tasks)[:limit]
    if not questions:
        raise DataError(f"{files.annotations}: there is no question in it.")
    of = {"task": task, "model": f"{model.info.name} ({_state(source)})", "annotations": _state(files.annotations)}
    check_same_run(output, of | {"questions": _state(files.questions)})
    predictions = Predictions(output / "predictions.jsonl", task=task)
    if any(question.choices for question in questions):
        answers = answer_all(questions, predictions, choice_answerer(model))
    else:
        with ChatEngine(model, max_concurrent=CONCURRENT, max_queue=CONCURRENT, busy_prefill_tokens=512) as engine:
            answers = answer_all(questions, predictions, benchmark_answerer(engine, benchmark.max_new_tokens))
    figures = benchmark.score(answers, questions)
    what = {"model": model.info.name, "config": str(source), "task": task, "annotations": files.annotations.stem}
    asked = {"questions": len(questions), "limit": limit}
    write_result(output / "results.json", what | asked | {"figures": figures})
    return figures
