"""A decode step as a list of operations, in the types of vectors.h.

Operations read and write rows of numbers in fp32, one row for each token: `RowPlace` says which.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

import torch
from torch import Tensor

BLOCK = 64  # outputs whose weights lie together
MOST_TOKENS = 256  # that go through the operations together
MOST_ROWS = 2 * MOST_TOKENS  # of a product in integers
MOST_CHATS = 64  # that get logits in a step
MOST_EXPERTS = 64
MOST_SHARING = 16  # heads that share keys
MOST_WIDTH = 256  # of a head


class NumberFormat(IntEnum):
    """Of weights; see vectors.h."""

    FP32, BF16, INT8, NF4, PLAIN_FP32, PLAIN_BF16 = range(6)


class OperationKind(IntEnum):
    """See step.c."""

    EMBED, NORM, PRODUCT, ROTATE, ATTEND, ACTIVATE, ADD, EXPERTS, KEEP = range(9)


class OperationFlag(IntFlag):
    """See vectors.h."""

    CENTRED, ADDING, GATED, GELU = 1, 2, 4, 8


class Operation(ctypes.Structure):
    """See vectors.h."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("kind", "format", "flags", "source", "source_column", "target")),
        *((name, ctypes.c_int32) for name in ("target_column", "n", "k", "count", "layer", "other")),
        ("value", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("weights", "scales", "bias", "levels")),
        *((name, ctypes.c_void_p) for name in ("many", "many_levels")),
    ]


class ChatSpan(ctypes.Structure):
    """The tokens of one chat in a step that reads prompts: C's `Span`; see vectors.h."""

    _fields_ = [(name, ctypes.c_int32) for name in ("first", "count", "key", "num_keys")]


class StepInputs(ctypes.Structure):
    """C's `Step`; see vectors.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("ids", "positions", "starts", "buffers", "widths", "scratch")),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        *((name, ctypes.c_int64) for name in ("layer_stride", "request_stride", "head_stride")),
        *((name, ctypes.c_int32) for name in ("tokens", "length", "is_bf16", "threads")),
        *((name, ctypes.c_void_p) for name in ("spans", "rows", "pages", "are_broken", "kept")),
        *((name, ctypes.c_int32) for name in ("num_spans", "num_kept")),
        ("found", ctypes.c_void_p),
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
        self._most: list[int] = []
        self._kept: list[Any] = []
        self._widest = 0

    def buffer(self, width: int, *, most: int = MOST_TOKENS) -> RowPlace:
        """A new buffer of rows of so many numbers, of which there are at most `most`."""
        self.widths.append(width)
        self._most.append(most)
        return RowPlace(len(self.widths) - 1)

    def add(self, kind: OperationKind, source: RowPlace, target: RowPlace, **fields: Any) -> None:
        """One more operation; see `operation`."""
        self.operations.append(self.operation(kind, source, target, **fields))

    def operation(self, kind: OperationKind, source: RowPlace, target: RowPlace, **fields: Any) -> Operation:
        """An operation that another one makes use of; `fields` of Operation by name, 0 where not given."""
        self._widest = max(self._widest, fields.get("k", 0))
        return Operation(
            kind=kind, source=source.buffer, source_column=source.column,
            target=target.buffer, target_column=target.column, **fields,
        )  # fmt: skip

    def array(self, operations: Sequence[Operation]) -> int:
        """Where operations are that another one makes use of."""
        self._kept.append(found := array_of(operations))
        return ctypes.addressof(found)

    def numbers(self, tensor: Tensor | None) -> int | None:
        """Where these numbers are in fp32, or None for none."""
        if tensor is None:
            return None
        return self.address(tensor.detach().float().contiguous())

    def address(self, tensor: Tensor) -> int:
        """Where a tensor's values are, as long as this lives."""
        self._kept.append(tensor)
        return tensor.data_ptr()

    def allocate(self, tokens: int) -> tuple[list[Tensor], Tensor]:
        """Memory for the buffers [tokens, width] and what products make of their inputs."""
        buffers = [torch.zeros(min(tokens, most), width) for width, most in zip(self.widths, self._most, strict=True)]
        return buffers, torch.zeros(2 * tokens, (self._widest + 3) // 2, dtype=torch.int32)


def array_of(operations: Sequence[Operation]) -> ctypes.Array[Operation]:
    """As C takes them."""
    return (Operation * len(operations))(*operations)
