"""Weights that are used where their file is mapped: whether the file is still what it was, and how to do without it.

A mapped file that is cut short ends the process at the next page that is read (SIGBUS); one that is overwritten changes
the model. Neither can be prevented here, only noticed.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from torch import Tensor, nn

Identity = tuple[int, int, int]  # size, time of the last change in ns, inode


def mapped_files(module: nn.Module) -> set[Path]:
    """The files that tensors of a module are mapped from; none where the system does not say."""
    return {file for _, file in _mapped_tensors(module)}


def mapped_bytes(module: nn.Module) -> int:
    """The bytes of the tensors that are mapped from files."""
    return sum(tensor.nbytes for tensor, _ in _mapped_tensors(module))


def copy_weights(module: nn.Module) -> int:
    """Give every mapped tensor memory of its own; how many there were."""
    number = 0
    for tensor, _ in list(_mapped_tensors(module)):
        tensor.data = tensor.data.clone()
        number += 1
    return number


class FileWatch:
    """Notices that one of some files is no longer what it was when this was made."""

    def __init__(self, files: set[Path]) -> None:
        self._identities = {file: _identity(file) for file in files}

    def changed(self) -> Path | None:
        """A file that was changed, replaced or removed, if there is one."""
        return next((file for file, was in self._identities.items() if _identity(file) != was), None)


def _identity(file: Path) -> Identity | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _mapped_tensors(module: nn.Module) -> Iterator[tuple[Tensor, Path]]:
    ranges = sorted(_file_ranges())
    starts = [start for start, _, _ in ranges]
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.device.type != "cpu" or not tensor.nbytes:
            continue
        address = tensor.data_ptr()
        index = bisect_right(starts, address) - 1
        if index >= 0 and address < ranges[index][1]:
            yield tensor, ranges[index][2]


def _file_ranges() -> Iterator[tuple[int, int, Path]]:
    if sys.platform != "linux":
        return
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, _, _, _, inode, *path = line.split(maxsplit=5)
        if inode != "0" and path and path[0].startswith("/") and not path[0].endswith((".so", " (deleted)")):
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end, Path(path[0])
