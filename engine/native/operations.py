"""A decode step as a list of operations, in the types of vectors.h.

Operations read and write rows of numbers in fp32, one row for each token: `RowPlace` says which.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import torch
from torch import Tensor

BLOCK = 64  # outputs whose weights lie together
MOST_TOKENS = 64
NO_PLACE = (0, 0)


class NumberFormat(IntEnum):
    """Of weights; see vectors.h."""

    FP32, BF16, INT8, NF4, PLAIN_FP32, PLAIN_BF16 = range(6)


class OperationKind(IntEnum):
    """See step.c."""

    EMBED, NORM, PRODUCT, ROTATE, ATTEND, ACTIVATE, ADD = range(7)


class OperationFlag(IntFlag):
    """See vectors.h."""

    CENTRED, ADDING, GATED, GELU = 1, 2, 4, 8


class Operation(ctypes.Structure):
    """See vectors.h."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("kind", "format", "flags", "source", "source_column", "target")),
        *((name, ctypes.c_int32) for name in ("target_column", "n", "k", "count", "layer")),
        ("value", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("weights", "scales", "bias", "levels")),
    ]


class StepInputs(ctypes.Structure):
    """C's `Step`; see vectors.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("ids", "positions", "starts", "buffers", "widths", "scratch")),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        *((name, ctypes.c_int64) for name in ("layer_stride", "request_stride", "head_stride")),
        *((name, ctypes.c_int32) for name in ("tokens", "length", "is_bf16", "threads")),
    ]


@dataclass(frozen=True)
class RowPlace:
    """From a column on in the rows of a buffer."""

    buffer: int
    column: int = 0

    def further(self, columns: int) -> RowPlace:
        """So many columns later."""
        return RowPlace(self.buffer, self.column + columns)


class Program:
    """Operations one after the other, and the buffers that they use; keeps what they point to."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.widths: list[int] = []
        self.kept: list[Tensor] = []

    def buffer(self, width: int) -> RowPlace:
        """A new buffer of rows of so many numbers."""
        self.widths.append(width)
        return RowPlace(len(self.widths) - 1)

    def add(
        self,
        kind: OperationKind,
        source: RowPlace,
        target: RowPlace,
        *,
        flags: int = 0,
        number_format: int = 0,
        n: int = 0,
        k: int = 0,
        count: int = 1,
        layer: int = 0,
        value: float = 0.0,
        **pointers: int | None,
    ) -> None:
        """One more operation; `pointers` to weights, scales, bias, levels."""
        self.operations.append(
            Operation(
                kind=kind, format=number_format, flags=flags, source=source.buffer, source_column=source.column,
                target=target.buffer, target_column=target.column, n=n, k=k, count=count, layer=layer, value=value,
                **pointers,
            )
        )  # fmt: skip

    def numbers(self, tensor: Tensor | None) -> int | None:
        """Where these numbers are in fp32, or None for none."""
        if tensor is None:
            return None
        return self.address(tensor.detach().float().contiguous())

    def address(self, tensor: Tensor) -> int:
        """Where a tensor's values are, as long as this lives."""
        self.kept.append(tensor)
        return tensor.data_ptr()

    def allocate(self, tokens: int) -> tuple[list[Tensor], Tensor]:
        """Memory for the buffers [tokens, width] and what products make of their inputs."""
        widest = max((operation.k for operation in self.operations), default=0)
        buffers = [torch.zeros(tokens, width) for width in self.widths]
        return buffers, torch.zeros(2 * tokens, (widest + 3) // 2, dtype=torch.int32)


def array_of(operations: Sequence[Operation]) -> ctypes.Array[Operation]:
    """As C takes them."""
    return (Operation * len(operations))(*operations)
