"""Where every tensor comes from: its file and the name it was released under, so that messages can say both.

It is kept beside the tensor, weakly and by identity: renaming and sorting move the same objects about, and as an
attribute of the tensor it would be written into every file that is saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True, order=True)
class Origin:
    """A tensor's file and its name in there."""

    file: str
    name: str

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


_ORIGINS: Any = WeakTensorKeyDictionary()


def recorded(tensors: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """The tensors of a file, each remembering it. One that is in there under two names becomes two."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        result[name] = tensor if tensor not in _ORIGINS else tensor.detach()
        _ORIGINS[result[name]] = Origin(file, name)
    return result


def origin_of(tensor: Tensor, default: Origin) -> Origin:
    """Where a tensor comes from; `default` for one that came from no file."""
    found: Origin = _ORIGINS.get(tensor, default)
    return found


def made_from(source: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
    """The results of a conversion, which from now on have the origin of what they were made from."""
    if source in _ORIGINS:
        for result in results:
            _ORIGINS[result] = _ORIGINS[source]
    return results


def joined(result: Tensor, *sources: Tensor) -> Tensor:
    """The result of putting several tensors of a file together, whose origin names them all."""
    if all(source in _ORIGINS for source in sources):
        names = " or ".join(_ORIGINS[source].name for source in sources)
        _ORIGINS[result] = Origin(_ORIGINS[sources[0]].file, names)
    return result
