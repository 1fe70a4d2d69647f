"""Devices, number formats and memory: which to use, what a model needs, what is free."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import psutil
import torch
from torch import Tensor

from models.errors import ConfigError, NotEnoughMemory
from models.weights import Part

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Bytes a weight takes after bitsandbytes loading: int8 + row scales; two 4-bit values a byte + block scales (64 each).
_QUANTIZED_BYTES = {"8bit": 1.0 + 4 / 1024, "4bit": 0.5 + 4 / 64}
_CGROUP = Path("/sys/fs/cgroup")
_HEADROOM = 1.05  # activations and allocator slack, as a share of the weights


def pick_device(wanted: str) -> torch.device:
    """`auto` is CUDA, else MPS, else CPU. Raises ConfigError for a device this machine does not have."""
    has_mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "mps", "cuda"):
        raise ConfigError(f"device {wanted!r} is unknown; use auto, cpu, mps, cuda or cuda:N.")
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


def check_memory(
    parts: Collection[Part], device: torch.device, *, dtype: torch.dtype, quantization: str, name: str
) -> str:
    """A line with the estimate. Raises NotEnoughMemory where it does not fit, with the settings that would, if any."""

    def fits(dtype: torch.dtype, quantization: str) -> bool:
        return weight_bytes(parts, dtype, quantization) * _HEADROOM <= free

    free = free_bytes(device)
    estimate = (
        f"{name}: about {_size(weight_bytes(parts, dtype, quantization))} of weights; {_size(free)} free on {device}."
    )
    if fits(dtype, quantization):
        return estimate
    stronger = {"none": ("none", "8bit", "4bit"), "8bit": ("8bit", "4bit")}.get(quantization, (quantization,))
    dtypes = (dtype, torch.bfloat16) if dtype == torch.float32 else (dtype,)
    for other in ((dtype_, quantization_) for quantization_ in stronger for dtype_ in dtypes):
        if fits(*other):
            changed = [f"quantization={other[1]}"] if other[1] != quantization else []
            changed += ["dtype=bfloat16"] if other[0] != dtype else []
            raise NotEnoughMemory(
                f"{estimate} That is not enough. Try --options {' '.join(changed)}, or a device with more memory."
            )
    raise NotEnoughMemory(f"{estimate} That is not enough for any setting. Use a device with more memory.")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _container_limit() -> int:
    """What a memory-limited container still allows (cgroup v2); unlimited elsewhere.

    Cached pages of files count as used there, but the system takes them back when memory is needed.
    """
    try:
        limit, used = ((_CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        if limit.strip() == "max":
            return 2**63
        counters = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        cached = int(counters["active_file"]) + int(counters["inactive_file"])
        return max(0, int(limit) - int(used) + cached)
    except (OSError, ValueError, KeyError):
        return 2**63
