"""Tensors that are computed when they are needed, and the memory that their sources are in given back afterwards.

A checkpoint is mapped, not read: what a page of it holds is in memory once it was used, until somebody gives it back.
With these, loading holds what it has made and, of the files, little more than the tensor it is at.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from models.tensors.freed import c_library

# One number for each page of this process, in the order of their addresses, and what its bits say
# (Linux, Documentation/admin-guide/mm/pagemap.rst).
_PAGES = Path("/proc/self/pagemap")
_ENTRY = 8  # bytes
_IS_FILE, _IS_SWAPPED, _IS_PRESENT = 1 << 61, 1 << 62, -(1 << 63)  # as a signed number


class DeferredTensor(Tensor):
    """Has a shape and a type; its values are computed anew by `make` in every operation, from `sources`."""

    make: Callable[[], Tensor]
    sources: tuple[Tensor, ...]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return func(*tree_map(computed, args), **tree_map(computed, dict(kwargs or {})))


def deferred(make: Callable[..., Tensor], *sources: Tensor, form: Tensor | None = None) -> Tensor:
    """What `make(*sources)` gives, computed when it is needed; without sources it is on the CPU.

    Its shape and type are those of `form`; without one, `make` is asked for them with tensors on the meta device.
    """
    device = sources[0].device if sources else torch.device("cpu")
    if form is None:
        form = make(*(torch.empty(source.shape, dtype=source.dtype, device="meta") for source in sources))
    tensor: DeferredTensor = Tensor._make_wrapper_subclass(DeferredTensor, form.shape, dtype=form.dtype, device=device)

    def compute() -> Tensor:
        return make(*map(computed, sources))

    tensor.make, tensor.sources = compute, sources
    return tensor


def computed(value: Any) -> Any:
    """A deferred tensor's values; anything else as it is."""
    return value.make() if isinstance(value, DeferredTensor) else value


def release(*tensors: Tensor) -> None:
    """Give back the memory of these tensors, as far as it is a mapped file's, from which it is read again.

    What is not a file's, or was written to since (a private mapping's pages are then memory of the process's own),
    would be lost with its pages, and stays.
    """
    for tensor in tensors:
        if isinstance(tensor, DeferredTensor):
            release(*tensor.sources)
        elif tensor.device.type == "cpu" and tensor.is_contiguous():
            _release(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)


def discard(tensor: Tensor) -> None:
    """Give back the memory of a contiguous tensor that nobody will read again; what it holds afterwards is anything."""
    if tensor.device.type == "cpu" and tensor.is_contiguous():
        _release(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes, keeps=False)


def _release(start: int, end: int, *, keeps: bool = True) -> None:
    """The whole pages between two addresses; if `keeps`, only where nothing is lost with them."""
    first, last = -(-start // mmap.PAGESIZE), end // mmap.PAGESIZE
    if first < last and (libc := c_library()) is not None and (not keeps or _are_unchanged_files(first, last)):
        size = (last - first) * mmap.PAGESIZE
        libc.madvise(ctypes.c_void_p(first * mmap.PAGESIZE), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def _are_unchanged_files(first: int, last: int) -> bool:
    """Whether each of these pages of the process is a file's, or nowhere in memory yet; no where Linux does not say."""
    try:
        with _PAGES.open("rb", buffering=0) as pages:
            pages.seek(first * _ENTRY)
            entries = torch.frombuffer(bytearray(pages.read((last - first) * _ENTRY)), dtype=torch.int64)
    except OSError:
        return False
    is_somewhere = entries & (_IS_PRESENT | _IS_SWAPPED) != 0
    return len(entries) == last - first and not bool((is_somewhere & (entries & _IS_FILE == 0)).any())
