"""The engine's memory: how large the KV cache may be, tensors whose pages the system gives as they are written to, and
which errors mean that there is none left."""

from __future__ import annotations

import mmap
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.devices import free_bytes
from models.memory.serving import Serving, size
from models.memory.sizes import KeysAndValues, plan_keys_and_values
from models.memory.spreading import layer_devices, most_for_all
from models.vision_language_model import VisionLanguageModel

_WORTH_A_MAPPING = 2**20  # bytes; what is smaller comes from memory that the program has already


def zeros_on_demand(*shape: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """`torch.zeros`; on a CPU the memory is allocated page by page, as it is first written to.

    Raises MemoryError on a CPU, and what torch raises elsewhere.
    """
    num_bytes = prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or num_bytes < _WORTH_A_MAPPING or sys.platform == "win32":
        return torch.zeros(shape, dtype=dtype, device=device)
    try:
        memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"can't allocate memory: {size(num_bytes)}") from error
    return torch.frombuffer(memory, dtype=torch.uint8).view(dtype).view(shape)


def no_zeros(*shape: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """A tensor on the `meta` device, without memory, in place of zeros that are allocated elsewhere."""
    del device
    return torch.empty(shape, dtype=dtype, device="meta")


class ZerosFrom(TorchFunctionMode):
    """Within the block, `torch.zeros(*shape, dtype=, device=)` in this thread calls `make` instead."""

    def __init__(self, make: Callable[..., Tensor] = zeros_on_demand) -> None:
        super().__init__()
        self._make = make

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.zeros and kwargs.keys() == {"dtype", "device"} and all(isinstance(size, int) for size in args):
            return self._make(*args, **kwargs)
        return func(*args, **kwargs)


def plan_conversations(model: VisionLanguageModel, wanted: Serving) -> KeysAndValues:
    """How many chats and bytes for their keys and values; what is not `wanted` here is as the configuration says."""
    language_model = model.language_model
    layers = Counter(layer_devices(language_model))
    return plan_keys_and_values(
        language_model.config,
        language_model.dtype,
        Serving(
            max_chats=wanted.max_chats or model.serving.max_chats, kv_bytes=wanted.kv_bytes or model.serving.kv_bytes
        ),
        context_tokens=model.info.context_tokens,
        device=language_model.device,
        free=most_for_all(layers, {device: free_bytes(device) for device in layers}),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or of the cache means that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        said in str(error) for said in ("can't allocate memory", "CUDA error: out of memory", "CUDA out of memory")
    )
