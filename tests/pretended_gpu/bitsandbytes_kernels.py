"""bitsandbytes' kernels as they are on a GPU: what its layers call, with the same restrictions and the same waits.

The layers and everything they do in Python are bitsandbytes' own. Its CPU kernels stand for the rest, except for the
4-bit product: at some widths the CPU's takes wrong scales, so the weights are dequantized and multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def gemm_4bit(
    inputs: Tensor,
    packed: Tensor,
    shape: Sequence[int],
    scales: Tensor,
    block: int,
    kind: str,
    bias: Tensor | None = None,
) -> Tensor:
    """[…, in] and packed weights [out, in] -> […, out]."""
    row = torch.ops.bitsandbytes.dequantize_4bit(
        packed.flatten(), scales, block, kind, [1, shape[0] * shape[1]], inputs.dtype
    )
    return functional.linear(inputs, row.view(list(shape)), bias)


def int8_vectorwise_quant(inputs: Tensor, threshold: float = 0.0) -> Any:
    """Rows of numbers to 8 bits. Raises ValueError for what the GPU's kernel refuses and the CPU's takes."""
    if inputs.dtype != torch.float16:
        raise ValueError(f"A must be float16, got {inputs.dtype}")
    return torch.ops.bitsandbytes.int8_vectorwise_quant(inputs, threshold)


KERNELS: dict[str, Callable[..., Any]] = {
    "bitsandbytes::gemm_4bit": gemm_4bit,
    "bitsandbytes::int8_vectorwise_quant": int8_vectorwise_quant,
}


def waits_for_outliers(name: str, args: Sequence[Any]) -> bool:
    """Whether the GPU's kernel looks whether any number is so large that its column is multiplied apart."""
    return name == "bitsandbytes::int8_vectorwise_quant" and len(args) > 1 and args[1] > 0
