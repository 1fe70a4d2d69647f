"""Devices, number formats and memory: which to use, what a model needs, what is free."""

from __future__ import annotations

from collections.abc import Iterable

import psutil
import torch
from torch import Tensor

from models.errors import ConfigError, NotEnoughMemory
from models.weights import Part

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Bytes a weight takes after bitsandbytes loading: int8 + row scales; two 4-bit values a byte + block scales (64 each).
_QUANTIZED_BYTES = {"8bit": 1.0 + 4 / 1024, "4bit": 0.5 + 4 / 64}
_HEADROOM = 1.05  # activations and allocator slack, as a share of the weights


def pick_device(wanted: str) -> torch.device:
    """`auto` is CUDA, else MPS, else CPU. Raises ConfigError for a device this machine does not have."""
    has_mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"device {wanted!r} is unknown; use auto, cpu, mps, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {wanted!r}: this machine has {torch.cuda.device_count()} CUDA GPUs; use --device cpu."
        )
    if device.type == "mps" and not has_mps:
        raise ConfigError("device 'mps' needs an Apple GPU; use --device cpu.")
    return device


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """`auto` is fp32 on the CPU, bf16 where the GPU has it, fp16 otherwise."""
    if wanted != "auto":
        return _DTYPES[wanted]
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16


def weight_bytes(parts: Iterable[Part], dtype: torch.dtype, quantization: str) -> int:
    """Bytes of all weights once loaded. Embeddings, the output head and vectors are never quantized."""
    return sum(
        round(tensor.numel() * _bytes_per_value(part, name, tensor, dtype, quantization))
        for part in parts
        for name, tensor in part.tensors.items()
    )


def _bytes_per_value(part: Part, name: str, tensor: Tensor, dtype: torch.dtype, quantization: str) -> float:
    is_linear = tensor.dim() == 2 and "embed" not in name and "lm_head" not in name
    if quantization != "none" and part.is_quantizable and is_linear:
        return _QUANTIZED_BYTES[quantization]
    return dtype.itemsize


def free_bytes(device: torch.device) -> int:
    """Memory a new model can take on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return min(psutil.virtual_memory().available, _container_limit())


def check_memory(needed: int, device: torch.device, *, name: str, quantization: str) -> str:
    """A line with the estimate; raises NotEnoughMemory with what to do when it does not fit."""
    free = free_bytes(device)
    estimate = f"{name}: about {_size(needed)} of weights; {_size(free)} free on {device}."
    if needed * _HEADROOM > free:
        smaller = {"none": "quantization=8bit (or 4bit)", "8bit": "quantization=4bit"}.get(quantization)
        advice = f"Try --options {smaller}, or" if smaller else "Use"
        raise NotEnoughMemory(f"{estimate} That is not enough. {advice} a device with more memory.")
    return estimate


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _container_limit() -> int:
    """What a memory-limited container still allows (cgroup v2); unlimited elsewhere."""
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            text = limit.read().strip()
            return max(0, int(text) - int(used.read())) if text != "max" else 2**63
    except (OSError, ValueError):
        return 2**63
