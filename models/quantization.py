"""8-bit and 4-bit weights through bitsandbytes: how they are asked for, and whether they are what was asked for."""

from __future__ import annotations

import copy
import logging
import os
import sys
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BitsAndBytesConfig, PreTrainedModel

from models.errors import ConfigError
from models.tensors import four_bits
from models.tensors.freed import give_back_freed_memory
from models.tensors.weights import Part

if TYPE_CHECKING:
    import bitsandbytes

HUB_KERNELS = "MINIVLM_HUB_KERNELS"  # environment variable that lets bitsandbytes fetch native code, if it is 1
_BLOCK = 64  # weights that share one scale in bitsandbytes' 4-bit format


def load_bitsandbytes() -> None:
    """Import bitsandbytes as it is installed. Call it before anything else that imports it (transformers, peft).

    On some CPUs and on Apple GPUs bitsandbytes 0.50 asks the package `kernels`, where that is installed, for a faster
    product, and that package downloads native code from a hub and runs it; where it is not installed, the user is
    advised to install it. Here nothing is fetched and nothing said, unless the environment has MINIVLM_HUB_KERNELS=1.
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
        try:
            import bitsandbytes  # noqa: F401
        finally:
            logger.setLevel(level)
            del sys.modules["kernels"]
            if had_kernels:
                sys.modules["kernels"] = kernels  # type: ignore[assignment]
    if (apple := sys.modules.get("bitsandbytes.backends.mps.ops")) is not None:
        apple._kernel_load_failed = True  # type: ignore[attr-defined]  # it asks at its first product, and only once


def quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """What transformers' loading is given for `8bit` or `4bit`; products are computed in `dtype`."""
    load_bitsandbytes()
    four_bits.install()
    # bitsandbytes warns at every single product that it casts its input; once is said in the documentation.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def finish_quantized(module: nn.Module, part: Part, quantization: str) -> None:
    """Check a loaded module and mend its layers that bitsandbytes computes wrongly on a CPU.

    Quantization that silently leaves layers as they are must not pass, as the memory estimate counts on it: raises
    ConfigError if any linear layer but the head, or anything stacked, is still at full size.
    """
    import bitsandbytes

    kind = bitsandbytes.nn.Linear8bitLt if quantization == "8bit" else bitsandbytes.nn.Linear4bit
    layers = [layer for layer in module.modules() if isinstance(layer, kind)]
    if not layers:
        raise ConfigError(f"{part.source}: {quantization} loading changed no layer of the {part.name}; use none.")
    head = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None
    left = [
        name
        for name, layer in module.named_modules()
        if (isinstance(layer, nn.Linear) and not isinstance(layer, kind) and layer is not head)
        # Stacked experts and the like, which bitsandbytes passes over without a word.
        or any(parameter.dim() > 2 for parameter in layer.parameters(recurse=False))
    ]
    if left:
        raise ConfigError(
            f"{part.source}: {quantization} loading left {len(left)} layers of the {part.name} at full size "
            f"(first: {left[0]}); use none."
        )
    for layer in layers if quantization == "4bit" else ():
        if layer.out_features % 32 or layer.in_features % _BLOCK:
            # bitsandbytes' fast CPU kernel takes blocks of this size only, and fails on others (no released model has).
            layer.support_avx512bf16_for_cpu = False
        if layer.in_features % _BLOCK and layer.weight.device.type == "cpu":
            setattr(layer, "forward", MethodType(_product_of_unaligned, layer))  # noqa: B010 (a method to mypy)


def pack_four_bits(layer: nn.Module) -> bool:
    """Let a 4-bit layer arrange its weights as this CPU multiplies them; whether it is such a layer.

    bitsandbytes does so at a layer's first product: at the first question, in whatever thread that is answered, and in
    gaps that the weights leave and no other thread fills (as much memory again). What `state_dict` gives afterwards has
    scales in bfloat16, in another order.
    """
    library = sys.modules.get("bitsandbytes")
    if library is None or not isinstance(layer, library.nn.Linear4bit):
        return False
    if layer.support_avx512bf16_for_cpu and layer.weight.device.type == "cpu":
        with torch.no_grad():
            layer(torch.zeros(1, layer.in_features, dtype=layer.compute_dtype))
        give_back_freed_memory()
    return True


def _product_of_unaligned(layer: bitsandbytes.nn.Linear4bit, inputs: Tensor) -> Tensor:
    """x W^T + b for a 4-bit layer whose rows do not end where blocks of 64 weights end; [..., in] -> [..., out].

    Blocks run on from row to row. At some such widths bitsandbytes 0.50's CPU kernel takes wrong scales when it reads
    them as rows (an error of 0.25 to 0.3 of the size of 128 x 352 weights, instead of 0.09); reading everything as a
    single row it takes the right ones.
    """
    from bitsandbytes.functional import dequantize_4bit

    packed: Any = layer.weight
    state = copy.copy(packed.quant_state)
    state.shape = torch.Size((1, layer.out_features * layer.in_features))
    weight = dequantize_4bit(packed.data, state).reshape(layer.out_features, layer.in_features)
    dtype = layer.compute_dtype or inputs.dtype
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return functional.linear(inputs.to(dtype), weight.to(dtype), bias).to(inputs.dtype)
