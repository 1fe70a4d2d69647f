"""`python -m benchmarks.quantization`: how far 8-bit and 4-bit answers are from full precision.

The fp32 model answers greedily; then it and the quantized ones read the same prompts with that answer, and their logits
are compared at every position. Two kinds of models: those recorded from the originals (tests/goldens; tiny, random
weights, the hardest case, as nothing in them is redundant) and the bundled ones. That layers were really changed is
checked by the loader itself, which refuses to load otherwise.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import Figure, SpeedReport, one_thread
from benchmarks.random_models import picture
from benchmarks.report import RESULTS, circumstances
from engine.generate import generate
from models.command_line import OneLineParser, place
from models.conversation import Sampling, Turn
from models.loader import load_model
from models.vision_language_model import VisionLanguageModel
from training.scenes.render import render_image
from training.scenes.scene import sample_scene

BUNDLED = tuple(sorted(Path("eval_configs").glob("tiny_*.yaml")))
RECORDED = tuple(sorted(Path("tests/goldens").glob("*/config.yaml")))
CONFIGS = (*BUNDLED, *RECORDED)
_MODES = ("8bit", "4bit")
_QUESTION = "What is in the image? Describe it in detail."
_IMAGES = 6
_NEW_TOKENS = 40


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A quantized model against the fp32 one, over all positions of all prompts and answers.

    `largest` and `mean` are of |logit - logit|; `relative` is the error's norm over the logits' norm; `same_tokens` is
    the share of the fp32 model's greedy tokens that the quantized one finds likeliest, too, after the same beginning.
    """

    model: str
    mode: str
    largest: float
    mean: float
    relative: float
    same_tokens: float
    num_tokens: int


def run(report: SpeedReport, configs: Sequence[Path] = CONFIGS) -> list[Difference]:
    """Compare every mode of every model; one figure each."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    found: list[Difference] = []
    for path in configs:
        for difference in compare(path):
            found.append(difference)
            report.add(
                Figure(
                    name=f"{difference.mode}, error of the logits relative to their size",
                    setting=f"{difference.model}, {difference.same_tokens:.1%} of the greedy tokens the same",
                    unit="",
                    ours=difference.relative,
                    ratio=difference.relative,
                    at_most=True,
                )
            )
        gc.collect()
    return found


def compare(path: Path) -> list[Difference]:
    """Both modes of one configuration."""
    model = _load(path, "none")
    conversations = [[Turn("user", _QUESTION, (image,))] for image in _images(path)]
    sampling = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=_NEW_TOKENS)
    answers = [answer.ids for answer in generate(model, conversations, sampling)]
    exact = _logits(model, conversations, answers)
    name = path.stem if path.stem != "config" else path.parent.name
    found = []
    for mode in _MODES:
        quantized = _logits(_load(path, mode), conversations, answers)
        errors = torch.cat([(ours - full).flatten() for ours, full in zip(quantized, exact, strict=True)])
        size = torch.cat([full.flatten() for full in exact])
        same = [
            logits[-len(ids) - 1 : -1].argmax(-1) == torch.tensor(ids)
            for logits, ids in zip(quantized, answers, strict=True)
        ]
        found.append(
            Difference(
                model=name,
                mode=mode,
                largest=float(errors.abs().max()),
                mean=float(errors.abs().mean()),
                relative=float(errors.norm() / size.norm()),
                same_tokens=float(torch.cat(same).float().mean()),
                num_tokens=sum(map(len, answers)),
            )
        )
    return found


def _load(path: Path, mode: str) -> VisionLanguageModel:
    return load_model(path, device="cpu", dtype="float32", quantization=mode, report=None)


def _images(path: Path) -> list[Image.Image]:
    """What the model knows: drawn scenes for the bundled ones; for random weights any pixels will do."""
    if path in BUNDLED:
        return [render_image(sample_scene(np.random.default_rng(seed), min_objects=3)) for seed in range(_IMAGES)]
    return [picture(seed, size=96) for seed in range(_IMAGES)]


@torch.inference_mode()
def _logits(
    model: VisionLanguageModel, conversations: Sequence[Sequence[Turn]], answers: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Logits [L, V] in fp32 over each prompt and its answer."""
    found = []
    for turns, ids in zip(conversations, answers, strict=True):
        written = model.text_embedding(torch.tensor(ids, dtype=torch.long))
        embeds = torch.cat((model.embed_prompt(turns), written)).unsqueeze(0)
        found.append(model.language_model(inputs_embeds=embeds).logits[0].float())
    return found


def as_markdown(values: Mapping[str, Any]) -> str:
    """The run as a table."""
    versions = ", ".join(f"{name} {number}" for name, number in values["versions"].items())
    lines = [
        f"# Quantization, {values['date']}",
        "",
        f"Logits of the language model in 8 and 4 bits against fp32, on a CPU ({values['device']}); {versions}. "
        "`tiny_*` are the bundled, trained models; the others are the recorded cases, whose weights are random.",
        "",
        "| Model | Mode | Largest difference | Mean difference | Relative to logits | Greedy tokens the same | of |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in values["differences"]:
        lines.append(
            f"| {row['model']} | {row['mode']} | {row['largest']:.3f} | {row['mean']:.3f} | {row['relative']:.3f} "
            f"| {row['same_tokens']:.1%} | {row['num_tokens']} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and write the report."""
    parser = OneLineParser(prog="python -m benchmarks.quantization", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--configs", nargs="+", type=place, default=CONFIGS, help="these alone")
    parser.add_argument("--output", type=place, default=RESULTS, help="folder for the report (%(default)s)")
    args = parser.parse_args(argv)
    with one_thread():
        about = circumstances(torch.device("cpu"))
        found = run(SpeedReport(), args.configs)
    values = {**about, "differences": [dataclasses.asdict(difference) for difference in found]}
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{about['date']}-quantization.json"
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(as_markdown(values), encoding="utf-8")
    print(f"report in {path} and .md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
