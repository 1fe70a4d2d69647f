"""8-bit and 4-bit weights through bitsandbytes: how they are asked for, and whether they are what was asked for."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Collection

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from models.errors import ConfigError
from models.tensors import bnb_int8, bnb_nf4
from models.tensors.weights import HEAD, Part

HUB_KERNELS = "MINIVLM_HUB_KERNELS"  # environment variable that lets bitsandbytes fetch native code, if it is 1
# Linear layers of a decoder layer, but for experts and what chooses them.
_OF_A_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(?:self_attn|mlp)\.(?:\w+_proj|dense|fc\d)\.weight$")


def load_bitsandbytes() -> None:
    """Import bitsandbytes as it is installed. Call it before anything else that imports it (transformers, peft).

    On some CPUs and on Apple GPUs bitsandbytes 0.50 asks the package `kernels`, where that is installed, for a faster
    product, and that package downloads native code from a hub and runs it; where it is not installed, the user is
    advised to install it. Here nothing is fetched and nothing said, unless the environment has MINIVLM_HUB_KERNELS=1.
    Nor is PyTorch's compiler imported, which takes a second, for functions that other code stands in for.
    """
    if os.environ.get(HUB_KERNELS) == "1":
        import bitsandbytes

        return
    if "bitsandbytes" not in sys.modules:
        logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
        level = logger.level
        had_kernels, kernels = "kernels" in sys.modules, sys.modules.get("kernels")
        logger.setLevel(logging.ERROR)
        sys.modules["kernels"] = None  # type: ignore[assignment]  # importing it fails as if it were not installed
        compiling = torch.compile
        if not torch.backends.mps.is_available():  # elsewhere there are kernels for the same
            torch.compile = _not_compiled  # type: ignore[assignment]
        try:
            import bitsandbytes  # noqa: F401
        finally:
            torch.compile = compiling
            logger.setLevel(level)
            del sys.modules["kernels"]
            if had_kernels:
                sys.modules["kernels"] = kernels  # type: ignore[assignment]
    if (apple := sys.modules.get("bitsandbytes.backends.mps.ops")) is not None:
        apple._kernel_load_failed = True  # type: ignore[attr-defined]  # it asks at its first product, and only once


def _not_compiled(function: object = None, **_: object) -> object:
    """In the place of `torch.compile`, as a decorator with arguments and without."""
    return _not_compiled if function is None else function


def wider_weights(part: Part, quantization: str) -> frozenset[str]:
    """Names of the weights that stay in 8 bits on a CPU where others have 4, which would cost most there: of the first
    and the last decoder layer. A folder that was converted to 4 bits has none.
    """
    if quantization != "4bit" or part.is_quantized:
        return frozenset()
    numbers = {
        name: int(match[1])
        for name, tensor in part.tensors.items()
        if (match := _OF_A_LAYER.search(name)) and tensor.dim() == 2
    }
    ends = {end(numbers.values()) for end in (min, max) if numbers}
    return frozenset(name for name, number in numbers.items() if number in ends)


def quantization_config(quantization: str, dtype: torch.dtype, wider: Collection[str] = ()) -> BitsAndBytesConfig:
    """What transformers' loading is given for `8bit` or `4bit`; products are computed in `dtype`.

    4 bits leave the weights named in `wider` as they are.
    """
    load_bitsandbytes()
    bnb_nf4.install()
    bnb_int8.install()
    # bitsandbytes warns at every single product that it casts its input; once is said in the documentation.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    left = sorted(name.removesuffix(".weight") for name in (HEAD, *wider))
    skipped = {"llm_int8_skip_modules": left} if wider else {}
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, **skipped)


def check_quantized(module: nn.Module, part: Part, quantization: str, wider: Collection[str] = ()) -> None:
    """Whether a loaded module is what was asked for.

    Quantization that silently leaves layers as they are must not pass, as the memory estimate counts on it: raises
    ConfigError if any linear layer but the head and those with the weights `wider`, or anything stacked, is still at
    full size.
    """
    import bitsandbytes

    kind = bitsandbytes.nn.Linear8bitLt if quantization == "8bit" else bitsandbytes.nn.Linear4bit
    layers = [layer for layer in module.modules() if isinstance(layer, kind)]
    if not layers and not wider:
        raise ConfigError(f"{part.source}: {quantization} loading changed no layer of the {part.name}; use none.")
    head = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None
    left = [
        name
        for name, layer in module.named_modules()
        if (isinstance(layer, nn.Linear) and not isinstance(layer, kind) and layer is not head)
        # Stacked experts and the like, which bitsandbytes passes over without a word.
        or any(parameter.dim() > 2 for parameter in layer.parameters(recurse=False))
    ]
    if left := [name for name in left if f"{name}.weight" not in wider]:
        raise ConfigError(
            f"{part.source}: {quantization} loading left {len(left)} layers of the {part.name} at full size "
            f"(first: {left[0]}); use none."
        )
