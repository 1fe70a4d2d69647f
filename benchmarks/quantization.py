"""How far 8-bit and 4-bit answers are from full precision: logits of the same prompts, in fp32 and quantized.

Two kinds of models: those recorded from the originals (tests/goldens; tiny, random weights, the hardest case, as
nothing in them is redundant) and the bundled ones. That layers were really changed is checked by the loader itself,
which refuses to load otherwise.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import Figure, Report
from models.conversation import Turn
from models.loader import load_model

CONFIGS = (
    *sorted(Path("eval_configs").glob("tiny_*.yaml")),
    *sorted(Path("tests/goldens").glob("*/config.yaml")),
)
_MODES = ("8bit", "4bit")


def run(report: Report, configs: Sequence[Path] = CONFIGS) -> None:
    """Each mode's error relative to the size of the logits, and how often the likeliest token stays the same."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for path in configs:
        exact = logits_of(path, "none")
        for mode in _MODES:
            quantized = logits_of(path, mode)
            error = float((quantized - exact).norm() / exact.norm())
            same = float((quantized.argmax(-1) == exact.argmax(-1)).float().mean())
            name = path.stem if path.stem != "config" else path.parent.name
            report.add(
                Figure(
                    name=f"{mode}, error of the logits relative to their size",
                    setting=f"{name}, likeliest token the same at {same:.0%} of the positions",
                    unit="",
                    ours=error,
                    ratio=error,
                    at_most=True,
                )
            )
        gc.collect()


@torch.inference_mode()
def logits_of(path: Path, mode: str) -> Tensor:
    """Logits [L, V] in fp32 over a prompt with a picture, by a model with a quantized language model."""
    model = load_model(path, device="cpu", dtype="float32", quantization=mode, report=lambda _: None)
    side = 96
    pixels = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    turn = Turn("user", "What is in the image?", (Image.fromarray(pixels.numpy()),))
    embeds = model.embed_prompt([turn]).unsqueeze(0)
    logits: Tensor = model.language_model(inputs_embeds=embeds).logits[0].float()
    return logits
