"""Devices, number formats and memory: which to use, what a model needs, what is free."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial

import torch

from models.errors import ConfigError, NotEnoughMemory
from models.memory.control_groups import free_memory
from models.memory.serving import size
from models.memory.sizes import HEADROOM, weight_bytes
from models.tensors.weights import Part

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LARGE = 2**28  # weights of models for which the number format is worth a measurement
_FASTER = 1.2  # so many times as fast must bf16 be, as its numbers are less exact
_SIDE, _TOKENS, _TRIES = 2048, 128, 5  # of a layer's weights, of a prompt, of a measurement


def pick_devices(wanted: str) -> tuple[torch.device, ...]:
    """One device, or several GPUs with commas between them. Raises ConfigError, as `pick_device`."""
    names = [name.strip() for name in wanted.split(",")]
    devices = tuple(pick_device(name) for name in names)
    if len(devices) == 1:
        return devices
    if len(set(devices)) < len(devices) or any(device.type != "cuda" or device.index is None for device in devices):
        raise ConfigError(f"device {wanted!r}: several devices are different GPUs, for example cuda:0,cuda:1.")
    return devices


def all_gpus() -> tuple[torch.device, ...]:
    """Every CUDA GPU of this machine."""
    return tuple(torch.device("cuda", index) for index in range(torch.cuda.device_count()))


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
        raise ConfigError(f"device {wanted!r} is unknown; use auto, cpu, mps, cuda, cuda:N or cuda:0,cuda:1.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {wanted!r}: this machine has {torch.cuda.device_count()} CUDA GPUs; use --device cpu."
        )
    if device.type == "mps" and not has_mps:
        raise ConfigError("device 'mps' needs an Apple GPU; use --device cpu.")
    return device


def pick_dtype(wanted: str, device: torch.device, num_weights: int = 0) -> tuple[torch.dtype, str]:
    """`auto` is bf16 where the GPU has it, fp16 on others; on a CPU fp32, or, for large models, what is quicker there.

    And why, for the user, where that was measured.
    """
    if wanted != "auto":
        return DTYPES[wanted], ""
    if device.type == "cpu":
        if num_weights < _LARGE:
            return torch.float32, ""
        gain = bfloat16_gain()
        chosen, insists = ("bfloat16", "float32") if gain >= _FASTER else ("float32", "bfloat16")
        reason = f"this CPU multiplies {gain:.1f} times as fast in bfloat16 as in float32; the model is in {chosen}."
        return DTYPES[chosen], f"{reason} --dtype {insists} insists on the other."
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, ""
    return torch.float16, ""


@cache
def bfloat16_gain() -> float:
    """How many times less a prompt's product takes here in bf16 than in fp32: less than half a second of products.

    In the CPU time of one thread, which other programs on the machine make longer but little, and for both alike.
    """
    products = {dtype: _product(dtype) for dtype in (torch.float32, torch.bfloat16)}
    least = dict.fromkeys(products, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(_TRIES):  # in turns
            for dtype, product in products.items():
                start = time.thread_time()
                product()
                least[dtype] = min(least[dtype], time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return least[torch.float32] / max(least[torch.bfloat16], 1e-9)


def _product(dtype: torch.dtype) -> Callable[[], object]:
    """A prompt's product with weights laid out as the engine does it, where oneDNN has bf16; else with plain ones."""
    weights = torch.ones(_SIDE, _SIDE, dtype=dtype)
    tokens = weights[:_TOKENS]
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return partial(torch.nn.functional.linear, tokens, weights)
    packed = torch.ops.mkldnn._reorder_linear_weight(weights)
    return partial(torch.ops.mkldnn._linear_pointwise, tokens, packed, None, "none", [], "")


def free_on(devices: Sequence[torch.device]) -> int:
    """Memory a new model can take on all of them together."""
    return sum(map(free_bytes, devices))


def free_bytes(device: torch.device) -> int:
    """Memory a new model can take on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return free_memory()


def more_gpus(
    parts: Collection[Part], devices: Sequence[torch.device], dtype: torch.dtype, quantization: str
) -> tuple[torch.device, ...]:
    """What the device `auto` is: one, or all GPUs where the weights fit on these and not on one."""
    if devices[0].type == "cuda":
        for shrunk in ("none", "4bit") if quantization == "auto" else (quantization,):
            needed = weight_bytes(parts, dtype, shrunk) * HEADROOM
            if needed <= free_on(devices):
                break
            if needed <= free_on(gpus := all_gpus()):
                return gpus
    return tuple(devices)


def choose_quantization(
    parts: Collection[Part], devices: Sequence[torch.device], dtype: torch.dtype
) -> tuple[str, str]:
    """`4bit` where the weights fit in no other way that keeps 16 bits, else `none`; and why, for the user."""
    free = free_on(devices)
    half = dtype if dtype.itemsize == 2 else torch.bfloat16
    plain = weight_bytes(parts, half, "none")
    shrunk = weight_bytes(parts, dtype, "4bit", on_cpu=devices[0].type == "cpu")
    if plain * HEADROOM <= free or shrunk * HEADROOM > free:
        return "none", ""
    return "4bit", (
        f"in 16 bits its weights need {size(plain)}, but {size(free)} are free on {names_of(devices)}; it is loaded in "
        f"4 bits ({size(shrunk)}). --quantization none insists on full size."
    )


def names_of(devices: Sequence[torch.device]) -> str:
    """The devices as one text, as in the YAML's key `device`: `cuda:0,cuda:1`."""
    return ",".join(map(str, devices))


def check_memory(
    parts: Collection[Part], devices: Sequence[torch.device], *, dtype: torch.dtype, quantization: str, name: str
) -> str:
    """A line with the estimate. Raises NotEnoughMemory where it does not fit, with the settings that would, if any."""

    def needed(dtype: torch.dtype, quantization: str) -> int:
        return weight_bytes(parts, dtype, quantization, on_cpu=devices[0].type == "cpu")

    def fits(dtype: torch.dtype, quantization: str) -> bool:
        return needed(dtype, quantization) * HEADROOM <= free

    free = free_on(devices)
    estimate = (
        f"{name}: about {size(needed(dtype, quantization))} of weights; {size(free)} free on {names_of(devices)}."
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
