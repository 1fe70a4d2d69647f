"""The device guard: what torch's C++ asks for the current device, which a build without the GPU does not have.

It is made of the CPU's, whose functions do nothing, by replacing the first three of its table of virtual functions:
`type`, `exchangeDevice` and `getDevice` (c10/core/impl/DeviceGuardImplInterface.h). The others stay.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tests.pretended_gpu.devices import Devices

_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"  # a pointer to a guard for every type of device
_NUMBERS = {"cpu": 0, "cuda": 1, "mps": 13}  # of the types, in c10/core/DeviceType.h
_LIBRARIES = {"linux": "libc10.so", "darwin": "libc10.dylib"}
_WORD = ctypes.sizeof(ctypes.c_void_p)
_BEFORE, _AFTER = 2, 48  # words of a table in front of its first function (of its type), and more than there are behind

# A c10::Device is two bytes, its type and its index, which are passed and returned like a number.
_TYPE = ctypes.CFUNCTYPE(ctypes.c_int8, ctypes.c_void_p)
_EXCHANGE = ctypes.CFUNCTYPE(ctypes.c_uint16, ctypes.c_void_p, ctypes.c_uint16)
_GET = ctypes.CFUNCTYPE(ctypes.c_uint16, ctypes.c_void_p)


def no_guard() -> str | None:
    """Why no guard can be made here, if so: torch's may look different from what is known."""
    try:
        registry = _registry()
        guard = registry[_NUMBERS["cpu"]]
        functions = ctypes.c_void_p.from_address(guard).value or 0
        first, third = (ctypes.c_void_p.from_address(functions + slot * _WORD).value for slot in (0, 2))
        if (_TYPE(first)(guard), _GET(third)(guard)) != (0, 0xFF00):  # type: ignore[arg-type]
            return "this torch's device guards are made differently"
    except (OSError, ValueError, KeyError) as error:
        return f"this build of torch does not show its device guards ({error})"
    return None


@contextmanager
def device_guard(devices: Devices) -> Iterator[None]:
    """Register a guard for the devices."""
    number = _NUMBERS[devices.kind]

    def current(*_: int) -> int:
        return number | devices.current << 8

    callbacks = (_TYPE(lambda _: number), _EXCHANGE(current), _GET(current))
    registry = _registry()
    source = ctypes.c_void_p.from_address(registry[_NUMBERS["cpu"]]).value or 0
    table = (ctypes.c_void_p * (_BEFORE + _AFTER)).from_buffer_copy(
        ctypes.string_at(source - _BEFORE * _WORD, (_BEFORE + _AFTER) * _WORD)
    )
    for slot, callback in enumerate(callbacks):
        table[_BEFORE + slot] = ctypes.cast(callback, ctypes.c_void_p).value
    guard = ctypes.c_void_p(ctypes.addressof(table) + _BEFORE * _WORD)  # an object is the address of its table
    registry[number] = ctypes.addressof(guard)
    try:
        yield
    finally:
        registry[number] = None


def _registry() -> Any:
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / _LIBRARIES[sys.platform]))
    return (ctypes.c_void_p * (max(_NUMBERS.values()) + 1)).in_dll(library, _REGISTRY)
