"""A part's tensors as they are needed, one at a time: checked, merged with its LoRA, in the number format of a module.

The pages of a file that were read for it are given back at once, so that at no moment of loading much more is in memory
than what has been made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from models.tensors.casting import convert_into, converted
from models.tensors.completeness import origin
from models.tensors.deferred import DeferredTensor, computed, release
from models.tensors.finite import check_finite
from models.tensors.loading_threads import spread
from models.tensors.origins import Origin, origin_of
from models.tensors.weights import Part, merge_lora

PIECE = 2**20  # values that a thread reads at a time: few enough for a CPU's cache
Progress = Callable[[int, int], None]  # bytes of the files' tensors that were read, of how many


def no_progress(read: int, total: int) -> None:
    """For whoever loads without watching."""
    del read, total


class ReadBytes:
    """Counts the bytes of the files that readers of some parts have read, and tells `progress` after each tensor."""

    def __init__(self, parts: Iterable[Part], progress: Progress) -> None:
        self._read, self._progress = 0, progress
        self._total = sum(tensor.nbytes for part in parts for tensor in part.tensors.values())

    def add(self, count: int) -> None:
        """So many more."""
        self._read = min(self._read + count, self._total)
        self._progress(self._read, self._total)


class TensorReader:
    """Reads a part for a model in `dtype`, its LoRA merged if `merge`.

    `on_read` is told the bytes of each tensor of the file once it was read. Raises CheckpointCorrupt or
    CheckpointMismatch, see `check_finite`.
    """

    def __init__(
        self,
        part: Part,
        dtype: torch.dtype,
        *,
        merge: bool = True,
        on_read: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._on_read = on_read
        self._part = part
        self._dtype = dtype
        self._pairs = part.lora.pairs if part.lora is not None else {}
        self._merge = merge

    def read(self, name: str) -> Tensor:
        """A tensor: the mapped file itself, unless it had to be merged or computed."""
        source, place = self._part.tensors[name], origin(self._part, name)
        tensor: Tensor = computed(source)
        if isinstance(source, DeferredTensor):
            check_finite(tensor, place, self._dtype)
        elif not (self._part.is_checked and tensor.dtype == self._dtype):
            self._in_pieces(tensor, place)
        if name in self._pairs:
            assert self._part.lora is not None
            lora_a, lora_b = self._pairs[name]
            for half in (lora_a, lora_b):
                check_finite(half, origin_of(half, place), self._dtype)
            if self._merge:
                tensor = self._merged(tensor, lora_a, lora_b, place)
        release(source)
        self._on_read(source.nbytes)
        return tensor

    def read_all(self) -> dict[str, Tensor]:
        """Every tensor by its name, as `read` gives it."""
        return {name: self.read(name) for name in self._part.tensors}

    def read_as(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor in a number format on a device. In the file's own format, on a CPU, it is the mapped file."""
        source = self._part.tensors[name]
        if self.is_plain(name) and device.type == "cpu" and source.is_floating_point() and source.dtype != dtype:
            result = torch.empty(source.shape, dtype=dtype)
            self.read_into(name, result)
            return result
        # To the device first: a GPU converts faster, and files are often half as large as what they become.
        tensor = self.read(name).to(device)
        return converted(tensor, dtype) if tensor.is_floating_point() else tensor

    def read_copy(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor on the CPU that is not the mapped file, whatever its number format."""
        source = self._part.tensors[name]
        if not self.is_plain(name):
            tensor = self.read(name)
            return tensor.to(dtype) if tensor is not source else tensor.to(dtype, copy=True)
        result = torch.empty(source.shape, dtype=dtype if source.is_floating_point() else source.dtype)
        self.read_into(name, result)
        return result

    def read_into(self, name: str, result: Tensor) -> None:
        """Copy a tensor's values to where as many have room, in the number format that is there."""
        source = self._part.tensors[name]
        if self.is_plain(name):
            self._in_pieces(source, origin(self._part, name), result.view(-1))
            self._on_read(source.nbytes)
        else:
            result.view(-1).copy_(self.read(name).reshape(-1))

    def read_rows(self, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
        """A matrix in a number format, as pieces of whole rows one after the other."""
        source, place = self._part.tensors[name], origin(self._part, name)
        is_plain = self.is_plain(name)
        matrix = source if is_plain else self.read(name)
        for piece in matrix.split(max(1, PIECE // matrix.shape[1])):
            if is_plain:
                check_finite(piece, place, self._dtype)
            yield converted(piece, dtype)
            if is_plain:
                release(piece)
        if is_plain:
            self._on_read(source.nbytes)

    def is_plain(self, name: str) -> bool:
        """Whether a tensor is in the file as it is in the model, but for its number format."""
        return name not in self._pairs and not isinstance(self._part.tensors[name], DeferredTensor)

    def _merged(self, weight: Tensor, lora_a: Tensor, lora_b: Tensor, place: Origin) -> Tensor:
        """A weight with its LoRA, in the model's number format. Some rows at a time, as it is done in fp32."""
        assert self._part.lora is not None
        alpha, result = self._part.lora.alpha, torch.empty(weight.shape, dtype=self._dtype)
        lora_a, rows = lora_a.float(), max(1, PIECE // weight.shape[1])

        def merge(start: int) -> None:
            here = slice(start, start + rows)
            merged = merge_lora(weight[here], lora_a, lora_b[here], alpha=alpha)
            check_finite(merged, place, self._dtype)
            result[here].copy_(merged)

        spread(merge, range(0, len(weight), rows))
        return result

    def _in_pieces(self, source: Tensor, place: Origin, result: Tensor | None = None) -> None:
        """Check a tensor and copy it, piece by piece, each of which gives its pages back."""
        values = source.reshape(-1)

        def read_piece(start: int) -> None:
            piece = values[start : start + PIECE]
            check_finite(piece, place, self._dtype)
            if result is not None:
                convert_into(piece, result[start : start + PIECE])
            release(piece)

        spread(read_piece, range(0, len(values), PIECE))
