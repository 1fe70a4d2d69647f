"""What a computation takes beside weights and inputs, found without computing: it is run on the meta device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _LiveBytes(TorchDispatchMode):
    """Counts the memory of the tensors that are made within the block, from when they are made until they are gone."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in given and key not in self._live:
                self._live[key] = storage.nbytes()
                weakref.finalize(storage, self._live.pop, key, None)
        self.most = max(self.most, sum(self._live.values()))
        return result


def most_bytes(compute: Callable[[], object], modules: Sequence[nn.Module]) -> int:
    """The most memory that `compute` takes at once for what it makes; `modules` are those it uses, on `meta`."""
    with _buffers_on_meta(modules), torch.inference_mode(), _LiveBytes() as live:
        compute()
    return live.most


@contextmanager
def _buffers_on_meta(modules: Sequence[nn.Module]) -> Iterator[None]:
    """The tables that modules without weights have computed stand aside for the time of the block."""
    inner = [module for outer in modules for module in outer.modules()]
    before = [dict(module._buffers) for module in inner]
    try:
        for module, buffers in zip(inner, before, strict=True):
            module._buffers.update({name: b if b is None else b.to("meta") for name, b in buffers.items()})
        yield
    finally:
        for module, buffers in zip(inner, before, strict=True):
            module._buffers.update(buffers)


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))
