"""The random weights that every peer is given: a folder with config.json and model.safetensors, as of a release."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.random_models import STANDARD, ModelSize, fill, language_model_of

CONTEXT = 2048
_LEAST = 2**-17  # from here on eight binary digits are no finer than float16's finest step, 2^-24
# The second has TinyLlama's shape.
SIZES = {
    "134M": STANDARD,
    "1.1B": ModelSize(hidden=2048, inner=5632, layers=22, heads=32, key_value_heads=4),
    "small": ModelSize(hidden=64, inner=96, layers=2, heads=4, key_value_heads=4, vocabulary=400),
}


def write_weights(folder: Path, size: ModelSize) -> None:
    """Write a random Llama in bfloat16, unless it is there; its values are float16's and float32's, too."""
    if (folder / "config.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = language_model_of("llama", size, context_tokens=CONTEXT)
    finally:
        torch.set_default_dtype(before)
    fill((model,), seed=0, device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():  # what float16 can't hold exactly
            parameter[parameter.abs() < _LEAST] = 0
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=1) + "\n", encoding="utf-8")
