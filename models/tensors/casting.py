"""From one number format to another, on a CPU as fast as its memory."""

from __future__ import annotations

import torch
from torch import Tensor

_CAST_VALUES = 2**18  # converted at a time: 1 MiB in fp32, which a core's own cache holds


def converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a number format; itself if it has that already."""
    if not _is_converted_by_parts(tensor, dtype):
        return tensor.to(dtype)
    result = torch.empty_like(tensor, dtype=dtype)
    convert_into(tensor, result)
    return result


def convert_into(source: Tensor, target: Tensor) -> None:
    """Copy values to where as many have room (contiguous), in the number format that is there.

    torch converts between the two half formats one value at a time, but each to and from fp32 with vector instructions:
    on a CPU the way over fp32, which holds both exactly, takes a third of the time if it stays in the cache.
    """
    if not _is_converted_by_parts(source, target.dtype):
        target.copy_(source)
        return
    chunk = torch.empty(min(_CAST_VALUES, source.numel()))
    for some, place in zip(source.view(-1).split(_CAST_VALUES), target.view(-1).split(_CAST_VALUES), strict=True):
        place.copy_(chunk[: len(some)].copy_(some))


def _is_converted_by_parts(tensor: Tensor, dtype: torch.dtype) -> bool:
    is_between_halves = {tensor.dtype, dtype} == {torch.float16, torch.bfloat16}
    return is_between_halves and tensor.device.type == "cpu" and tensor.is_contiguous()
