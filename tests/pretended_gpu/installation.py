"""Putting pretended GPUs in torch's place, and taking them away again.

Nothing is left behind: the functions of torch.cuda are torch's own again, the kernels are unregistered, and what
libraries remembered about the machine is forgotten, before and after. So tests on such a device can run in the same
process as all others, which spares each of their modules the seconds that a process needs to import the libraries.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils import _device

from tests.pretended_gpu.devices import Devices, PretendedDevice
from tests.pretended_gpu.graphs import graph_classes, recording
from tests.pretended_gpu.guard import device_guard, no_guard
from tests.pretended_gpu.rules import Rules
from tests.pretended_gpu.streams import stream_classes
from tests.pretended_gpu.tensor import make_subclass, set_rules

# Operations that make a tensor from none; the others that do are made of these.
_NEW_TENSORS = (
    "empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "linspace", "eye", "eye.m",
    "randperm", "randperm.generator",
)  # fmt: skip


def missing() -> str | None:
    """Why there can be no pretended GPU here, if so."""
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return "this machine has a GPU, whose kernels must not be replaced"
    return no_guard()


@contextmanager
def pretended_gpus(
    count: int = 1, *, kind: str = "cuda", total_bytes: int = 64 << 30
) -> Iterator[tuple[PretendedDevice, ...]]:
    """As many GPUs of `kind` cuda or mps, for the time of the block."""
    _device._device_constructors()  # a list that torch makes once; nothing of here may be in it
    devices = Devices(kind, count, total_bytes)
    rules = Rules(devices)
    with ExitStack() as stack:
        stack.enter_context(device_guard(devices))
        stack.enter_context(_kernels(rules, kind.upper()))
        for target, name, value in _replacements(devices):
            stack.enter_context(patch.object(target, name, value, create=True))
        set_rules(rules)
        stack.callback(set_rules, None)
        _forget_the_machine()
        stack.callback(_forget_the_machine)
        yield devices.all


@contextmanager
def _kernels(rules: Rules, key: str) -> Iterator[None]:
    """What torch calls for a device without having a tensor on it yet, or past `__torch_dispatch__`."""
    library = torch.library.Library("aten", "IMPL")
    for name in _NEW_TENSORS:
        packet, _, overload = name.partition(".")
        func = getattr(getattr(torch.ops.aten, packet), overload or "default")
        library.impl(name, lambda *args, _func=func, **kwargs: rules.run(_func, args, kwargs), key)
    library.impl("copy_", rules.copy, key)
    try:
        yield
    finally:
        library._destroy()


def _replacements(devices: Devices) -> Iterator[tuple[Any, str, Any]]:
    """What of torch is to be replaced by what."""
    yield torch, "empty", _without_pinning(torch.empty)
    yield torch, "Generator", _generator_class(devices)
    yield torch.Tensor, "pin_memory", lambda tensor, device=None: tensor
    # Moving a module must not put a pretended tensor's insides into a plain parameter.
    yield torch.__future__, "_swap_module_params_on_conversion", True
    yield torch.Tensor, "_make_subclass", staticmethod(make_subclass(torch.Tensor._make_subclass))
    yield torch._C, "_get_accelerator", lambda: torch.device(devices.kind)
    yield torch.accelerator, "is_available", lambda: True
    yield torch.accelerator, "device_count", lambda: len(devices.all)
    yield torch.accelerator, "current_accelerator", lambda check_available=False: torch.device(devices.kind)
    yield torch.accelerator, "current_device_index", lambda: devices.current
    yield torch.accelerator, "current_stream", lambda device=None: SimpleNamespace(is_capturing=_is_capturing)
    yield torch.accelerator, "synchronize", lambda device=None: _wait(devices, device)
    if devices.kind == "mps":
        yield torch.backends.mps, "is_available", lambda: True
        yield torch.mps, "synchronize", lambda: _wait(devices, None)
        yield torch.mps, "manual_seed", lambda seed: None
        yield torch.mps, "empty_cache", lambda: None
        yield torch.mps, "recommended_max_memory", lambda: devices[None].total_bytes
        yield torch.mps, "current_allocated_memory", lambda: devices[None].used_bytes
        yield torch.mps, "driver_allocated_memory", lambda: devices[None].used_bytes
        return
    for name, value in (_cuda_state(devices) | _cuda_memory(devices)).items():
        yield torch.cuda, name, value
    for name in ("get_rng_state", "set_rng_state"):  # which `get_rng_state_all` finds in its own module
        yield torch.cuda.random, name, getattr(torch.cuda, name)
    yield torch._C, "_cuda_getDeviceCount", lambda: len(devices.all)
    yield torch._C, "_cuda_getDevice", lambda: devices.current
    yield torch._C, "_cuda_getCurrentRawStream", lambda device: 0


def _cuda_state(devices: Devices) -> dict[str, Any]:
    stream, event, current_stream, stream_context = stream_classes(devices)
    cuda_graph, graph = graph_classes(devices)

    class device:
        def __init__(self, device: Any) -> None:
            self._index = devices.index_of(device)

        def __enter__(self) -> None:
            self._before, devices.current = devices.current, self._index

        def __exit__(self, *_: object) -> None:
            devices.current = self._before

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "_lazy_call": lambda callable, **_: callable(),
        "device_count": lambda: len(devices.all),
        "current_device": lambda: devices.current,
        "set_device": lambda device: setattr(devices, "current", devices.index_of(device)),
        "device": device,
        "get_device_name": lambda device=None: "Pretended GPU",
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: SimpleNamespace(
            name="Pretended GPU", total_memory=devices[device].total_bytes, major=9, minor=0, multi_processor_count=1
        ),
        "is_bf16_supported": lambda including_emulation=True: True,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "synchronize": lambda device=None: _wait(devices, device),
        "Stream": stream,
        "Event": event,
        "stream": stream_context,
        "current_stream": current_stream,
        "default_stream": current_stream,
        "CUDAGraph": cuda_graph,
        "graph": graph,
        "graph_pool_handle": lambda: (0, 0),
        "is_current_stream_capturing": _is_capturing,
    }


def _cuda_memory(devices: Devices) -> dict[str, Any]:
    def used(device: Any = None) -> int:
        return devices[device].used_bytes

    return {
        "mem_get_info": lambda device=None: (devices[device].free_bytes, devices[device].total_bytes),
        "memory_allocated": used,
        "memory_reserved": used,
        "max_memory_allocated": used,
        "max_memory_reserved": used,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
    }


def _without_pinning(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What stands for torch.empty: memory of the CPU can't be pinned for a GPU that is not there."""

    def empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        return make(*args, **kwargs)

    return empty


def _generator_class(devices: Devices) -> type[torch.Generator]:
    """What stands for torch.Generator: numbers for a pretended device are drawn on the CPU."""

    class Generator(torch.Generator):
        def __new__(cls, device: Any = "cpu") -> Generator:
            return super().__new__(cls, "cpu" if torch.device(device).type == devices.kind else device)  # type: ignore[call-arg]

    return Generator


def _wait(devices: Devices, device: Any) -> None:
    devices[device].counts.waits += 1


def _is_capturing() -> bool:
    return recording() is not None


def _forget_the_machine() -> None:
    """Let libraries look again at which devices there are; nothing that is on one may be left."""
    gc.collect()
    torch.get_device_module.cache_clear()
    modules = [module for name, module in sys.modules.items() if name.startswith(("transformers.utils", "accelerate"))]
    for value in [value for module in modules for value in list(vars(module).values())]:
        if isinstance(value, functools._lru_cache_wrapper) and "available" in value.__name__:
            value.cache_clear()
