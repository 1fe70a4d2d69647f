"""What 8 and 4 bits cost, and whether it is more than chance: `python -m training.evaluation.paired_answers`.

Two figures of the same questions differ by chance as well: of two different answers, either can be the right one. So
the answers that became worse are counted against those that became better. `chance` is how often as many coins fall at
least as unequally (McNemar's exact test): where it is not small, the difference of the figures says nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb

import numpy as np

from models.command_line import OneLineParser, place
from models.disk import written_whole
from models.errors import MiniVLMError
from models.loader import load_model
from models.vision_language_model import VisionLanguageModel
from training.evaluation.public.benchmark_run import Predictions
from training.evaluation.scene_accuracy import (
    BOX_TASKS,
    VQA_GOALS,
    Asked,
    SceneAnswerer,
    ask_scenes,
    circumstances,
    engine_answerer,
    scene_engine,
    score,
)
from training.scenes.samples import Sample

PRECISIONS = ("none", "8bit", "4bit")
_TASKS = ("caption", *VQA_GOALS)  # beside those about boxes
_ALONE = "existence_f1"  # of a single answer this has no meaning


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A figure of a task, 0…1, in full precision and in another one, over the same questions.

    `worse` and `better` are how many answers score lower and higher than in full precision; `chance` is 0…1.
    """

    precision: str
    figure: str
    questions: int
    full: float
    ours: float
    worse: int
    better: int
    chance: float


def chance_of(worse: int, better: int) -> float:
    """How often so many coins fall at least so unequally, to whichever side."""
    count = worse + better
    tail = sum(comb(count, few) for few in range(min(worse, better) + 1))
    return min(1.0, 2 * tail / 2**count)


def paired(
    precision: str, task: str, samples: Sequence[Sample], full: Sequence[str], ours: Sequence[str]
) -> list[Paired]:
    """Every figure of a task, from the answers of full and of another precision."""
    figures = [score(task, samples, answers) for answers in (full, ours)]
    alone = [
        [score(task, [sample], [answer]) for sample, answer in zip(samples, answers, strict=True)]
        for answers in (full, ours)
    ]
    found = []
    for name in figures[0].keys() - {_ALONE}:
        changes = np.array([after[name] - before[name] for before, after in zip(*alone, strict=True)])
        worse, better = int((changes < 0).sum()), int((changes > 0).sum())
        found.append(
            Paired(
                precision=precision, figure=name, questions=len(samples), full=figures[0][name], ours=figures[1][name],
                worse=worse, better=better, chance=chance_of(worse, better),
            )
        )  # fmt: skip
    return sorted(found, key=lambda pair: pair.figure)


def mean_of(pairs: Sequence[Paired]) -> Paired:
    """The mean of the short questions' figures of a precision, with their answers together."""
    parts = [pair for pair in pairs if pair.figure in VQA_GOALS]
    worse, better = sum(pair.worse for pair in parts), sum(pair.better for pair in parts)
    return Paired(
        precision=parts[0].precision, figure="vqa_mean", questions=sum(pair.questions for pair in parts),
        full=float(np.mean([pair.full for pair in parts])), ours=float(np.mean([pair.ours for pair in parts])),
        worse=worse, better=better, chance=chance_of(worse, better),
    )  # fmt: skip


def compare(answers: Mapping[str, SceneAnswerer], asked: Mapping[str, Sequence[Asked]]) -> list[Paired]:
    """Ask the questions of each task in each precision, the full one (`none`) among them, and compare with that."""
    questions = [each for some in asked.values() for each in some]
    given = {precision: answer_all(questions) for precision, answer_all in answers.items()}
    full, found = given.pop("none"), []
    for precision, texts in given.items():
        pairs, start = [], 0
        for task, some in asked.items():
            here = slice(start, start + len(some))
            pairs += paired(precision, task, [sample for _, sample in some], full[here], texts[here])
            start += len(some)
        found += [*pairs, mean_of(pairs)] if asked.keys() >= set(VQA_GOALS) else pairs
    return found


def answerer_of(model: VisionLanguageModel, kept: Predictions) -> SceneAnswerer:
    """Asks a model what is not kept; its engine runs for one call."""

    def answer_all(questions: Sequence[Asked]) -> list[str]:
        with scene_engine(model) as engine:
            return engine_answerer(engine, kept)(questions)

    return answer_all


def run(options: argparse.Namespace) -> None:
    """Load, ask, print and write. Raises MiniVLMError."""
    answers: dict[str, SceneAnswerer] = {}
    for precision in PRECISIONS:
        kept = Predictions(options.answers / f"{options.cfg_path.stem}-{precision}.jsonl", task="scenes")
        model = load_model(options.cfg_path, quantization=precision, report=None)
        answers[precision] = answerer_of(model, kept)
    boxes = any(task.gives_boxes for task in model.info.tasks)
    tasks = options.tasks or ((*BOX_TASKS, *_TASKS) if boxes else _TASKS)
    asked = {
        task: [each for seed in options.seeds for each in ask_scenes(task, options.scenes, seed, boxes=boxes)]
        for task in tasks
    }
    found = compare(answers, asked)
    print(f"{model.info.name:29}{'asked':>7}{'full':>8}{'ours':>8}{'worse':>7}{'better':>8}{'chance':>8}")
    for pair in found:
        figures = f"{pair.questions:7}{pair.full:8.4f}{pair.ours:8.4f}{pair.worse:7}{pair.better:8}{pair.chance:8.3f}"
        print(f"  {pair.precision:5}{pair.figure:22}{figures}")
    if options.output:
        report = {"model": model.info.name, "scenes": options.scenes, "seeds": options.seeds}
        report |= {"figures": [asdict(pair) for pair in found], **circumstances(model.info.device)}
        with written_whole(options.output) as partial:
            partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    name = "python -m training.evaluation.paired_answers"
    parser = OneLineParser(prog=name, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cfg-path", type=place, required=True, help="YAML of a checkpoint")
    parser.add_argument("--scenes", type=int, default=500, help="fresh scenes per task and seed (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="which scenes; several are put together")
    parser.add_argument("--tasks", nargs="+", choices=(*BOX_TASKS, *_TASKS), help="these alone")
    parser.add_argument("--answers", type=place, required=True, help="folder that keeps every answer, to go on from")
    parser.add_argument("--output", type=place, help="the same as a JSON file")
    try:
        run(parser.parse_args(arguments))
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
