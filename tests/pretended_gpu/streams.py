"""Streams and events of pretended GPUs: nothing runs beside anything, so only waiting for them is worth a note."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.pretended_gpu.devices import Devices
from tests.pretended_gpu.graphs import forbid_while_capturing


def stream_classes(devices: Devices) -> tuple[type, type, Callable[..., Any], Callable[..., Any]]:
    """What stands for torch.cuda's Stream, Event, current_stream and stream."""

    class Stream:
        cuda_stream = 0

        def __init__(self, device: Any = None, priority: int = 0) -> None:
            self.device = devices[device].device

        def synchronize(self) -> None:
            forbid_while_capturing("synchronize")
            devices[self.device].counts.waits += 1

        def wait_stream(self, other: Stream) -> None: ...
        def wait_event(self, event: Event) -> None: ...

        def record_event(self, event: Event | None = None) -> Event:
            return event or Event()

        def query(self) -> bool:
            return True

    class Event:
        def __init__(self, **_: bool) -> None:
            self._device = devices[None]

        def record(self, stream: Stream | None = None) -> None: ...
        def wait(self, stream: Stream | None = None) -> None: ...

        def synchronize(self) -> None:
            forbid_while_capturing("synchronize")
            self._device.counts.waits += 1

        def query(self) -> bool:
            return True

        def elapsed_time(self, end: Event) -> float:
            return 0.0

    @contextmanager
    def stream(_: Stream | None) -> Iterator[None]:
        yield

    return Stream, Event, Stream, stream
