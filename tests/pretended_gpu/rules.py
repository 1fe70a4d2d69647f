"""What happens to an operation on a pretended GPU: where it may run, what it costs, and what comes out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.pretended_gpu.bitsandbytes_kernels import KERNELS, waits_for_outliers
from tests.pretended_gpu.devices import Devices, PretendedDevice
from tests.pretended_gpu.graphs import forbid_while_capturing, recording, tensors_of
from tests.pretended_gpu.tensor import PretendedTensor

_aten = torch.ops.aten

_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
# The size or the value of their result is known to the device alone: the host waits for it.
_READING = {
    _aten._local_scalar_dense.default, _aten.equal.default, _aten.nonzero.default, _aten.masked_select.default,
    _aten._unique.default, _aten._unique2.default, _aten.unique_dim.default, _aten.unique_consecutive.default,
    _aten.repeat_interleave.Tensor, _aten.bincount.default,
}  # fmt: skip
# Run whole where autograd has not taken them apart: on the CPU the kernels of their parts are slow.
_WHOLE = {_aten.scaled_dot_product_attention.default, _aten.linear.default, _aten.matmul.default}


class Rules:
    """The rules of one installation's devices."""

    def __init__(self, devices: Devices) -> None:
        self.devices = devices

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation that has a pretended tensor among its arguments, or makes one."""
        if _is_composite(func) and func not in _WHOLE:
            # In inference mode composite operations arrive undivided; their parts are what costs.
            return func.decompose(*args, **kwargs)
        if func is _aten._fused_sdp_choice.default:
            return 0  # attention in separate products
        if func is _aten.copy_.default:
            return self.copy(*args, **kwargs)
        found = _Found([], [])
        on_cpu = tuple(_unwrapped(value, found) for value in args)
        options = {name: _unwrapped(value, found) for name, value in kwargs.items()}
        source = self._single_device(func, args, found)
        target = self._target(kwargs, source)
        self._note_reads(func, args, source, target)
        self._check_dtype(kwargs.get("dtype"), target)
        if isinstance(target, PretendedDevice) and options.get("device") is not None:
            options["device"] = torch.device("cpu")
        if options.get("pin_memory"):
            options["pin_memory"] = False
        kernel = _as_on_gpu(func)
        result = kernel(*on_cpu, **options)
        if isinstance(target, PretendedDevice) and recording() is None and _is_kernel(func):
            target.counts.launches += 1
        made: list[PretendedTensor] = []
        wrapped = result
        if isinstance(target, PretendedDevice):
            wrapped = _wrapped(result, target, {id(tensor.values_on_cpu): tensor for tensor in found.pretended}, made)
        if (tape := recording()) is not None:
            tape.record(kernel, on_cpu, options, tensors_of(result))
            for tensor in made:
                tape.watch(tensor, tensor.values_on_cpu)
        return wrapped

    def copy(self, to: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        """`copy_`, the only operation between devices."""
        if isinstance(to, PretendedTensor) != isinstance(source, PretendedTensor):
            self._note_transfer(to, source, non_blocking=non_blocking)
        to_values, values = _values(to), _values(source)
        to_values.copy_(values)
        if (tape := recording()) is not None:
            tape.record(_aten.copy_.default, (to_values, values), {}, [to_values])
        return to

    def note_read(self, device: torch.device, what: str) -> None:
        """The host waits for a value. Raises RuntimeError in a graph."""
        forbid_while_capturing(what)
        self.devices[device].counts.reads += 1

    def _note_transfer(self, to: Tensor, source: Tensor, *, non_blocking: bool) -> None:
        if not source.numel():
            return
        if isinstance(source, PretendedTensor):
            if not non_blocking:
                self.note_read(source.device, "copy to the CPU")
            return
        if recording() is not None:
            raise RuntimeError(
                "Cannot copy between CPU and CUDA tensors during CUDA graph capture unless the CPU tensor is pinned."
            )
        if not non_blocking:
            self.devices[to.device].counts.blocking_copies += 1

    def _single_device(self, func: Any, args: Any, found: _Found) -> PretendedDevice | None:
        """The device that an operation runs on. Raises RuntimeError where tensors of several meet."""
        if not found.pretended:
            return None
        if func in _INDEXING and not isinstance(args[0], PretendedTensor):
            raise RuntimeError(
                f"indices should be either on cpu or on the same device as the indexed tensor ({args[0].device})"
            )
        devices = {tensor.device for tensor in found.pretended}
        for other in found.others:
            # A tensor of a single number is passed along as a number; indices are copied first.
            if other.dim() == 0 or other.device.type == "meta":
                continue
            if func in _INDEXING and not other.is_floating_point() and other.numel():
                self._note_transfer(args[0], other, non_blocking=False)
                continue
            devices.add(other.device)
        if len(devices) > 1:
            first, second, *_ = sorted(map(str, devices), reverse=True)
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{first} and {second}! (in {func})"
            )
        return self.devices[found.pretended[0].device]

    def _target(self, kwargs: dict[str, Any], source: PretendedDevice | None) -> PretendedDevice | torch.device:
        """Where the result is."""
        wanted = kwargs.get("device")
        if wanted is None:
            return source or torch.device("cpu")
        return self.devices[wanted] if self.devices.has(wanted) else torch.device(wanted)

    def _note_reads(
        self, func: Any, args: Any, source: PretendedDevice | None, target: PretendedDevice | torch.device
    ) -> None:
        if source is None:
            return
        is_masked = func in _INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        to_host = func is _aten._to_copy.default and target == torch.device("cpu")
        if func in _READING or is_masked or to_host or waits_for_outliers(func.name(), args):
            self.note_read(source.device, str(func))

    def _check_dtype(self, dtype: Any, target: PretendedDevice | torch.device) -> None:
        if dtype == torch.float64 and isinstance(target, PretendedDevice) and target.device.type == "mps":
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
                "Please use float32 instead."
            )


@dataclass
class _Found:
    """The tensors among an operation's arguments."""

    pretended: list[PretendedTensor]
    others: list[Tensor]


def _unwrapped(value: Any, found: _Found) -> Any:
    """An argument with its pretended tensors' values instead of them."""
    if isinstance(value, PretendedTensor):
        found.pretended.append(value)
        return value.values_on_cpu
    if isinstance(value, tuple | list):
        return type(value)([_unwrapped(each, found) for each in value])
    if isinstance(value, Tensor):
        found.others.append(value)
    return value


def _wrapped(
    value: Any, target: PretendedDevice, known: dict[int, PretendedTensor], made: list[PretendedTensor]
) -> Any:
    """A result with its tensors on their device; those that were arguments are the very same again."""
    if isinstance(value, tuple | list):
        return type(value)([_wrapped(each, target, known, made) for each in value])
    if not isinstance(value, Tensor) or value.device.type == "meta":
        return value
    if (own := known.get(id(value))) is not None:
        if own.shape != value.shape or own.stride() != value.stride():  # squeeze_ and the like
            own.data = PretendedTensor(value, own.device)
        return own
    target.allocate(value)
    made.append(PretendedTensor(value, target.device))
    return made[-1]


@functools.cache
def _is_kernel(func: Any) -> bool:
    """Whether a GPU has to do anything for it: for memory and for views of it the host is enough."""
    is_view = any(made.alias_info is not None and not made.alias_info.is_write for made in func._schema.returns)
    return not is_view and not func._schema.name.startswith("aten::empty")


@functools.cache
def _is_composite(func: Any) -> bool:
    return bool(func._can_decompose())


def _values(value: Tensor) -> Tensor:
    return value.values_on_cpu if isinstance(value, PretendedTensor) else value


@functools.cache
def _as_on_gpu(func: Any) -> Callable[..., Any]:
    """The CPU's kernel, or what does the same where a GPU has one and the CPU has none or a different one."""
    own: Callable[..., Any] = _histogram if func is _aten.histc.default else func
    return KERNELS.get(func.name(), own)


def _histogram(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return values.double().histc(*args, **kwargs).to(values.dtype)
