"""Numbers on their way to a GPU, without waiting for what it still computes.

A decode step should wait for the device once, for its tokens. `torch.tensor(…, device="cuda")` waits for all work that
was given to the device before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def to_device(values: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of these numbers on the device."""
    # CUDA has read pageable memory when the call returns; Metal may read it when it belongs to something else by then.
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=device.type == "cuda")


class CopiesWithoutWaiting(TorchFunctionMode):
    """Within this mode, `torch.tensor` with a device is `to_device`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and isinstance(kwargs.get("device"), torch.device):
            return to_device(*args, **kwargs)
        return func(*args, **kwargs)
