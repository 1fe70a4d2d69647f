"""The tensors of a module, one by one, made from those of a part: merged, stacked, in the module's number format."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.tensors.completeness import expected_shapes
from models.tensors.deferred import release
from models.tensors.freed import give_back_freed_memory
from models.tensors.tensor_reader import TensorReader
from models.tensors.weights import Part


class PlacedTensors:
    """What an empty module of a part is to be given, by the module's names; nothing is read before it is asked for.

    A tied weight is there once.
    """

    def __init__(self, module: nn.Module, part: Part, reader: TensorReader, dtype: torch.dtype) -> None:
        self._part = part
        self._reader = reader
        in_fp32 = set(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
        self.shapes = expected_shapes(module)
        self.dtypes: Mapping[str, torch.dtype] = {
            name: dtype if in_fp32.isdisjoint(name.split(".")) else torch.float32 for name in self.shapes
        }

    def read(self, name: str, device: torch.device) -> Tensor:
        """A tensor on a device. On a CPU, in the file's own format, it is the mapped file."""
        sources = self._sources(name)
        if len(sources) == 1:
            tensor = self._reader.read_as(next(iter(sources)), self.dtypes[name], device)
        else:  # experts that lie in one parameter one after the other
            tensor = torch.empty(self.shapes[name], dtype=self.dtypes[name], device=device)
            places = tensor.view(-1).split([size.numel() for size in sources.values()])
            for place, source in zip(places, sources, strict=True):
                self._reader.read_into(source, place)
        if not all(map(self._reader.is_plain, sources)):  # merged or computed, of which copies may have been left
            give_back_freed_memory()
        return tensor

    def release(self, name: str) -> None:
        """Give back the pages of the files that a tensor was read from, after it has been used."""
        for source in self._sources(name):
            release(self._part.tensors[source])

    def _sources(self, name: str) -> Mapping[str, torch.Size]:
        """The part's tensors that a module's tensor is made of."""
        shapes = {name: self.shapes[name]}
        return self._part.released_shapes(shapes) if self._part.released_shapes else shapes
