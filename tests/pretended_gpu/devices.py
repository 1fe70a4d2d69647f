"""What a pretended GPU is: a memory of limited size, and counts of what the host had to wait for."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

_SWEEP_AFTER = 4096  # allocations after which those that were freed are looked for


@dataclass
class Counts:
    """Since the device was made, or `reset`."""

    reads: int = 0  # values that the host waited for: item, tolist, cpu, nonzero, a mask as index …
    blocking_copies: int = 0  # from pageable memory without `non_blocking`, as by torch.tensor(…, device="cuda")
    waits: int = 0  # for a stream, an event or the whole device
    launches: int = 0  # operations that are kernels of their own: neither views nor parts of a replayed graph
    captures: int = 0
    replays: int = 0

    @property
    def synchronizations(self) -> int:
        """How often the host waited for the device."""
        return self.reads + self.blocking_copies + self.waits

    def reset(self) -> None:
        """Begin at zero."""
        self.__init__()  # type: ignore[misc]


class PretendedDevice:
    """One GPU of `total_bytes` of memory; `kind` is cuda or mps."""

    def __init__(self, kind: str, index: int, total_bytes: int) -> None:
        self.device = torch.device(kind, index)
        self.total_bytes = total_bytes
        self.counts = Counts()
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}
        self._used = 0
        self._sweep_at = _SWEEP_AFTER
        self._lock = threading.Lock()

    def allocate(self, tensor: Tensor) -> None:
        """Count the tensor's memory, unless it is a view of what is counted. Raises torch.OutOfMemoryError."""
        storage = tensor.untyped_storage()
        with self._lock:
            if storage._cdata in self._held:
                return
            size = storage.nbytes()
            if self._used + size > self.total_bytes or len(self._held) >= self._sweep_at:
                self._forget_freed()
            if self._used + size > self.total_bytes:
                raise torch.OutOfMemoryError(
                    f"{self.device.type.upper()} out of memory. Tried to allocate {size / 2**20:.2f} MiB. "
                    f"{self.device} has a total capacity of {self.total_bytes / 2**20:.2f} MiB, of which "
                    f"{(self.total_bytes - self._used) / 2**20:.2f} MiB is free."
                )
            self._held[storage._cdata] = (StorageWeakRef(storage), size)
            self._used += size

    @property
    def used_bytes(self) -> int:
        """Memory of all tensors that are alive."""
        with self._lock:
            self._forget_freed()
            return self._used

    @property
    def free_bytes(self) -> int:
        """What is left."""
        return max(0, self.total_bytes - self.used_bytes)

    def leave(self, free_bytes: int) -> None:
        """Make the device so small that no more than this is free."""
        self.total_bytes = self.used_bytes + free_bytes

    def _forget_freed(self) -> None:
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}
        self._used = sum(size for _, size in self._held.values())
        self._sweep_at = 2 * len(self._held) + _SWEEP_AFTER


class Devices:
    """All pretended GPUs of a process, and which is the current one of each thread."""

    def __init__(self, kind: str, count: int, total_bytes: int) -> None:
        self.kind = kind
        self.all = tuple(PretendedDevice(kind, index, total_bytes) for index in range(count))
        self._of_thread = threading.local()

    @property
    def current(self) -> int:
        """The index of the current device of this thread."""
        return getattr(self._of_thread, "index", 0)

    @current.setter
    def current(self, index: int) -> None:
        self._of_thread.index = index

    def index_of(self, device: object = None) -> int:
        """The index that a device, its name, its number or None stands for. Raises RuntimeError if there is none."""
        if isinstance(device, int):
            index = device
        else:
            found = torch.device(device) if isinstance(device, str) else device
            own = getattr(found, "index", None)
            index = self.current if own is None else own
        if not 0 <= index < len(self.all):
            raise RuntimeError("CUDA error: invalid device ordinal")
        return index

    def __getitem__(self, device: object) -> PretendedDevice:
        return self.all[self.index_of(device)]

    def has(self, device: Any) -> bool:
        """Whether a `device` argument of an operation means one of these."""
        if device is None:
            return False
        return isinstance(device, int) or torch.device(device).type == self.kind
