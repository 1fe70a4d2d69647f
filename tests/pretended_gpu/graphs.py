"""CUDA graphs: the operations of a captured step, run again over the same inputs and into the same outputs.

As on a GPU, whatever Python decided while the step was captured stays decided, and numbers stay what they were.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.pretended_gpu.devices import Devices

_capturing = threading.local()


class _Made:
    """Stands for a tensor that an operation of the tape makes."""

    def __init__(self, number: int) -> None:
        self.number = number


class Tape:
    """Operations over CPU tensors. Tensors from elsewhere are kept; those made on the way are made anew each time."""

    def __init__(self) -> None:
        self._operations: list[tuple[Callable[..., Any], Any, Any, list[int]]] = []
        self._numbers: dict[int, int] = {}  # by id, of tensors made here
        self._alive: list[Tensor] = []  # while recording, so that no id comes twice
        self._wrappers: list[tuple[int, weakref.ref[Any]]] = []
        self._outputs: list[tuple[int, Tensor]] = []

    def record(self, function: Callable[..., Any], args: Any, kwargs: Any, results: list[Tensor]) -> None:
        """Note one operation, which gave these tensors."""

        def remembered(value: Tensor) -> Tensor | _Made:
            number = self._numbers.get(id(value))
            return value if number is None else _Made(number)

        noted = (each_tensor(remembered, args), each_tensor(remembered, kwargs))
        numbers = []
        for result in results:
            self._alive.append(result)
            numbers.append(self._numbers.setdefault(id(result), len(self._alive)))
        self._operations.append((function, *noted, numbers))

    def watch(self, wrapper: Any, values: Tensor) -> None:
        """Note the tensor that somebody may keep as an output of the graph."""
        number = self._numbers.get(id(values))
        if number is not None:
            self._wrappers.append((number, weakref.ref(wrapper)))

    def finish(self) -> None:
        """End the recording: what somebody still holds is an output."""
        held = [(number, wrapper()) for number, wrapper in self._wrappers]
        self._outputs = [(number, wrapper.values_on_cpu) for number, wrapper in held if wrapper is not None]
        self._numbers, self._alive, self._wrappers = {}, [], []

    def play(self) -> None:
        """Run everything again."""
        made: dict[int, Any] = {}

        def current(value: Any) -> Any:
            return made[value.number] if isinstance(value, _Made) else value

        for function, args, kwargs, numbers in self._operations:
            result = function(*each_tensor(current, args), **each_tensor(current, kwargs))
            made.update(zip(numbers, tensors_of(result), strict=True))
        for number, output in self._outputs:
            output.copy_(made[number])


def each_tensor(function: Callable[[Any], Any], values: Any) -> Any:
    """Arguments or results with the function applied to every tensor, or what stands for one, among them."""
    if isinstance(values, Tensor | _Made):
        return function(values)
    if isinstance(values, tuple | list):
        return type(values)([each_tensor(function, value) for value in values])
    if isinstance(values, dict):
        return {name: each_tensor(function, value) for name, value in values.items()}
    return values


def tensors_of(result: Any) -> list[Tensor]:
    """The tensors among an operation's results."""
    results = result if isinstance(result, tuple | list) else [result]
    return [each for each in results if isinstance(each, Tensor)]


def recording() -> Tape | None:
    """The tape that this thread records, if it captures a graph."""
    return getattr(_capturing, "tape", None)


def forbid_while_capturing(what: str) -> None:
    """Raise RuntimeError for what a GPU does not allow in a graph."""
    if recording() is not None:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")


def graph_classes(devices: Devices) -> tuple[type, type]:
    """What stands for torch.cuda.CUDAGraph and torch.cuda.graph."""

    class CUDAGraph:
        def __init__(self, keep_graph: bool = False) -> None:
            self.tape = Tape()

        def replay(self) -> None:
            devices[None].counts.replays += 1
            with torch.no_grad():
                self.tape.play()

        def reset(self) -> None:
            self.tape = Tape()

    class graph:
        def __init__(self, cuda_graph: CUDAGraph, **_: Any) -> None:
            self._graph = cuda_graph

        def __enter__(self) -> None:
            forbid_while_capturing("another capture")
            _capturing.tape = self._graph.tape

        def __exit__(self, *_: object) -> None:
            _capturing.tape = None
            devices[None].counts.captures += 1
            self._graph.tape.finish()

    return CUDAGraph, graph
