"""Measure a tiny checkpoint on fresh scenes: `python -m training.evaluate --cfg-path eval_configs/tiny_….yaml`.

Greedy answers through the chat engine, from the checkpoint as shipped, on pictures as the app draws them. Scenes come
from seeds that training never uses; the held-out (shape, colour) pairs are measured in scenes of their own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
import transformers

from engine.chat_engine import ChatEngine
from engine.question_runner import QuestionRunner, TurnsAndSampling, answered
from models.command_line import place
from models.conversation import Sampling, Turn
from models.disk import written_whole
from models.errors import ConfigError, MiniVLMError
from models.loader import load_model
from models.vision_language_model import VisionLanguageModel
from training.evaluation.expert_shares import expert_shares, share_figures
from training.evaluation.low_resolution import leave_out_mining
from training.evaluation.public.benchmark_run import Predictions, run_benchmark
from training.evaluation.public.benchmark_tasks import BENCHMARKS, BenchmarkQuestion, Files
from training.evaluation.public.result_tables import write_tables
from training.evaluation.public.scores import yes_no_figures
from training.scenes import scoring as metrics
from training.scenes.question_makers import MAKERS, VQA_MAKERS, vary
from training.scenes.render import render_image
from training.scenes.samples import Sample, without_identifier
from training.scenes.scene import HeldOutRule, Scene, sample_scene

VQA_GOALS = ("count", "colour", "shape", "relation", "existence", "reading")
"""The kinds of question that make up the VQA mean; the others are reported as extras."""

HELD_OUT_TASKS = ("refer", "identify", "colour", "shape")
BOX_TASKS = ("refer", "identify", "grounding", "detection", "absent", "absent_one")
_SEED_SPACE = 1_000_003  # more than training, whose second number is the step, ever has: seeds never meet
CONCURRENT = 32
_TRACED_SCENES = 100  # at most, for the shares of experts: each is one more pass

_GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=200)

Asked = tuple[Scene, Sample]
SceneAnswerer = Callable[[Sequence[Asked]], list[str]]


def ask_scenes(task: str, count: int, seed: int, *, boxes: bool, held_out: HeldOutRule = "never") -> list[Asked]:
    """`count` fresh scenes with one question of `task` each; for held-out scenes the question is about such a pair."""
    rng = np.random.default_rng([seed, _SEED_SPACE, list(MAKERS).index(task) * 2 + (held_out == "always")])
    asked: list[Asked] = []
    while len(asked) < count:
        scene = sample_scene(rng, held_out=held_out)
        sample = MAKERS[task](rng, scene)
        if sample is None or (held_out == "always" and not any(item.is_held_out for item in sample.items)):
            continue
        sample = vary(rng, sample)
        asked.append((scene, sample if boxes else without_identifier(sample)))
    return asked


def scene_engine(model: VisionLanguageModel) -> ChatEngine:
    """An engine for many questions at once, not started."""
    return ChatEngine(model, max_concurrent=CONCURRENT, max_queue=CONCURRENT, busy_prefill_tokens=512)


def engine_answerer(engine: ChatEngine, kept: Predictions | None = None) -> SceneAnswerer:
    """Greedy answers of a running engine, several at a time; those that are `kept` are not asked again."""

    def prepare(asked: Asked) -> TurnsAndSampling:
        scene, sample = asked
        return [Turn("user", sample.prompt, (render_image(scene),))], _GREEDY

    def answer_all(questions: Sequence[Asked]) -> list[str]:
        known = {} if kept is None else kept.answers
        left = [asked for asked in questions if _key(asked) not in known]
        new: dict[str, str] = {}
        for asked, answer in answered(QuestionRunner(engine, prepare, at_once=CONCURRENT).run(left)):
            new[_key(asked)] = answer.text
            if kept is not None:
                sample = asked[1]
                kept.add(BenchmarkQuestion(_key(asked), Path(), sample.prompt, sample.answer), answer.text)
        found = new | known
        return [found[_key(asked)] for asked in questions]

    return answer_all


def _key(asked: Asked) -> str:
    scene, sample = asked
    return hashlib.sha256(repr((scene, sample.prompt)).encode()).hexdigest()[:16]


def measure(answer_all: SceneAnswerer, *, boxes: bool, scenes: int, seed: int) -> dict[str, float]:
    """Every figure of the table, in 0…1."""
    figures: dict[str, float] = {}
    well_formed: list[bool] = []
    for task in ((*BOX_TASKS, "caption") if boxes else ("caption", "chat_caption")) + tuple(VQA_MAKERS):
        asked = ask_scenes(task, scenes, seed, boxes=boxes)
        answers = answer_all(asked)
        scored = score(task, [sample for _, sample in asked], answers)
        print(*(f"{name} {value:.3f}" for name, value in scored.items()), file=sys.stderr, flush=True)
        figures |= scored
        well_formed += [metrics.is_well_formed(answer) for answer in answers]
    figures["vqa_mean"] = float(np.mean([figures[task] for task in VQA_GOALS]))
    figures["vqa_lowest"] = min(figures[task] for task in VQA_GOALS)
    figures["well_formed"] = float(np.mean(well_formed))
    return figures | _measure_held_out(answer_all, figures, boxes=boxes, scenes=scenes, seed=seed)


def _measure_held_out(
    answer_all: SceneAnswerer, figures: dict[str, float], *, boxes: bool, scenes: int, seed: int
) -> dict[str, float]:
    """The figures of questions about held-out pairs, and how far their mean lies below that of the rest."""
    held_out: dict[str, float] = {}
    tasks = [task for task in HELD_OUT_TASKS if boxes or task in VQA_MAKERS]
    names = {"refer": "refer@0.5"}
    for task in tasks:
        asked = ask_scenes(task, scenes, seed, boxes=boxes, held_out="always")
        scored = score(task, [sample for _, sample in asked], answer_all(asked))
        held_out[names.get(task, task)] = scored[names.get(task, task)]
    rest = float(np.mean([figures[name] for name in held_out]))
    result = {f"held_out_{name}": value for name, value in held_out.items()}
    return result | {"held_out_gap": rest - float(np.mean(list(held_out.values())))}


def measure_experts(
    engine: ChatEngine, answer_all: SceneAnswerer, *, boxes: bool, scenes: int, seed: int
) -> dict[str, float]:
    """`training.evaluation.expert_shares` over captions and counts, with the model's own answers."""
    traces = []
    for task in ("caption", "count"):
        asked = ask_scenes(task, min(scenes, _TRACED_SCENES), seed, boxes=boxes)
        for (scene, sample), text in zip(asked, answer_all(asked), strict=True):
            turns = [Turn("user", sample.prompt, (render_image(scene),))]
            traces.append(engine.routing(turns, text, _GREEDY))
    return share_figures(expert_shares(traces))


def score(task: str, samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
    """The figures of one task from its answers."""
    pairs = list(zip(answers, samples, strict=True))
    if task == "refer":
        overlaps = np.array([metrics.overlap(answer, sample) for answer, sample in pairs])
        unrounded = np.array([metrics.overlap(answer, sample, unrounded=True) for answer, sample in pairs])
        return {
            **{f"refer@{limit}": float((overlaps >= limit).mean()) for limit in (0.5, 0.75)},
            **{f"refer@{limit}_unrounded": float((unrounded >= limit).mean()) for limit in (0.5, 0.75)},
        }
    if task in ("grounding", "detection"):
        hits = sum((metrics.region_hits(answer, sample) for answer, sample in pairs), metrics.Hits(0, 0, 0))
        return {f"{task}_f1@0.5": hits.f1}
    if task in ("caption", "chat_caption"):
        hits = sum((metrics.caption_hits(answer, sample) for answer, sample in pairs), metrics.Hits(0, 0, 0))
        return {f"{task}_f1": hits.f1}
    if task in ("absent", "absent_one"):
        return {f"{task}_unclaimed": float(np.mean([not metrics.claims_regions(answer) for answer, _ in pairs]))}
    if task == "existence":
        yes = [
            (answer.strip().lower().startswith("yes"), sample.answer.lower().startswith("yes"))
            for answer, sample in pairs
        ]
        pope = yes_no_figures([said for said, _ in yes], [expected for _, expected in yes])
        right = float(np.mean([metrics.is_same_text(answer, sample) for answer, sample in pairs]))
        return {task: right, "existence_f1": pope.f1}
    return {task: float(np.mean([metrics.is_same_text(answer, sample) for answer, sample in pairs]))}


def circumstances(device: str) -> dict[str, str]:
    """When, on what and with which libraries something was measured."""
    if device.startswith("cuda"):
        name = ", ".join(torch.cuda.get_device_name(each) for each in device.split(","))
    else:
        info = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows the name itself
        text = info.read_text(encoding="utf-8") if info.is_file() else ""
        found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        name = found[1] if found else platform.processor() or platform.machine()
    return {
        "date": date.today().isoformat(),
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def default_output(config: Path, task: str, annotations: Path) -> Path:
    """A folder for each model, task and annotation file; training writes `NAME/final/eval.yaml`."""
    path = config.absolute()
    name = path.parent.parent.name if path.parts[-2:] == ("final", "eval.yaml") else path.stem
    return Path("output") / "evaluation" / f"{name}-{task}-{annotations.stem}"


def print_benchmark(options: argparse.Namespace) -> None:
    """Measure a public benchmark and print its table. Raises MiniVLMError."""
    if options.annotations is None:
        raise ConfigError(f"--task {options.task} needs --annotations; docs/training.md lists the files.")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}; it must be 1 or more, or left out.")
    output = options.output or default_output(options.cfg_path, options.task, options.annotations)
    files = Files(options.annotations, options.images, options.questions)
    model = load_model(options.cfg_path, overrides=options.options)
    figures = run_benchmark(model, options.task, files, output, limit=options.limit, source=options.cfg_path)
    print(f"{model.info.name}, {options.task}; predictions in {output}")
    for name, value in figures.items():
        print(f"  {name:24} {value:.4f}")
    print(f"All results in {output.parent} as a table: {write_tables(output.parent)}")


def print_scenes(options: argparse.Namespace) -> None:
    """Measure drawn scenes, print the figures and write the report. Raises MiniVLMError."""
    start = time.monotonic()
    model = load_model(options.cfg_path, overrides=options.options)
    title = model.info.name
    if options.low_resolution:
        leave_out_mining(model.connector)
        title += " without its high-resolution tower"
    boxes = any(task.gives_boxes for task in model.info.tasks)
    torch.manual_seed(options.seed)
    with scene_engine(model) as engine:
        kept = Predictions(options.predictions, task="scenes") if options.predictions else None
        answer_all = engine_answerer(engine, kept)
        figures = measure(answer_all, boxes=boxes, scenes=options.scenes, seed=options.seed)
        if model.info.has_experts:
            figures |= measure_experts(engine, answer_all, boxes=boxes, scenes=options.scenes, seed=options.seed)
    print(f"{title}: {options.scenes} scenes per task, seed {options.seed}, {time.monotonic() - start:.0f} s")
    for name, value in figures.items():
        print(f"  {name:24} {value:.3f}")
    if options.output:
        rounded = {name: round(value, 4) for name, value in figures.items()}
        report = {"model": title, "scenes": options.scenes, "seed": options.seed, "figures": rounded}
        report |= circumstances(model.info.device)
        with written_whole(options.output) as partial:
            partial.write_text(json.dumps(report, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--cfg-path", type=place, required=True, help="YAML of a checkpoint")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML")
    parser.add_argument(
        "--task", choices=("scenes", *BENCHMARKS), default="scenes", help="drawn scenes, or a benchmark"
    )
    parser.add_argument("--scenes", type=int, default=300, help="fresh scenes per task")
    parser.add_argument("--seed", type=int, default=0, help="which scenes")
    parser.add_argument(
        "--output", type=place, help="scenes: figures as a JSON file; benchmarks: folder of the results"
    )
    parser.add_argument("--predictions", type=place, help="scenes: keep every answer in this file, and go on from it")
    parser.add_argument(
        "--low-resolution", action="store_true", help="scenes: leave out what Mini-Gemini's high-resolution tower adds"
    )
    parser.add_argument("--annotations", type=place, help="benchmarks: the annotation file")
    parser.add_argument("--questions", type=place, help="vqav2, okvqa: the official questions file")
    parser.add_argument("--images", type=place, default=Path(), help="benchmarks: the folder of the pictures")
    parser.add_argument("--limit", type=int, help="benchmarks: only the first so many questions")
    options = parser.parse_args(arguments)
    try:
        (print_scenes if options.task == "scenes" else print_benchmark)(options)
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
