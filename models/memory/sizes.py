"""What a model will take, from its released tensors and its configuration alone: nothing is allocated to find out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from models.memory.serving import Serving
from models.quantization import wider_weights
from models.tensors.deferred import DeferredTensor
from models.tensors.tensor_reader import PIECE
from models.tensors.weights import HEAD, Part

# Bytes a weight takes after bitsandbytes loading: int8 + row scales; two 4-bit values a byte + block scales (64 each).
_QUANTIZED_BYTES = {"8bit": 1.0 + 4 / 1024, "4bit": 0.5 + 4 / 64}
HEADROOM = 1.05  # activations and allocator slack, as a share of the weights
_MOST_CHATS = 8  # at once, where nobody says how many
_LEAST_CHATS = 2
PARKED = 2.0  # pages for so many times the running chats: the rest keeps prefixes of chats between two questions
_LITTLE = 2**30  # bytes for keys and values that nobody needs to be asked for
USABLE = 0.85  # of the pages: with fewer free ones the batching library admits no more prompts
_SHARE_OF_FREE = 0.5  # for keys and values; the rest is for activations and whatever else runs on the machine
CPU_STEP_TOKENS, GPU_STEP_TOKENS = 512, 2048  # of a step, for each of which there is a row in the attention mask


@dataclass(frozen=True, kw_only=True)
class KeysAndValues:
    """Bytes for the keys and values of `chats` requests at once: `num_bytes` at most, and what one of them needs."""

    chats: int
    num_bytes: int
    one_chat: int


def weight_bytes(parts: Iterable[Part], dtype: torch.dtype, quantization: str, *, on_cpu: bool = False) -> int:
    """Bytes of all weights once loaded. Embeddings and vectors are never quantized, the output head on a CPU alone."""
    return sum(count for part in parts for _, count in bytes_by_tensor(part, dtype, quantization, on_cpu=on_cpu))


def bytes_by_tensor(
    part: Part, dtype: torch.dtype, quantization: str, *, on_cpu: bool = False
) -> Iterator[tuple[str, int]]:
    """Each tensor's name, and its bytes once loaded."""
    wider = wider_weights(part, quantization) if on_cpu else frozenset[str]()
    for name, tensor in part.tensors.items():
        taken = "8bit" if name in wider else quantization
        yield name, round(tensor.numel() * _bytes_per_value(part, name, tensor, dtype, taken, on_cpu))


def loading_bytes(parts: Collection[Part], dtype: torch.dtype, quantization: str) -> int:
    """Bytes at the worst moment of loading on a CPU: all weights and what the most costly tensor needs beside its own.

    A tensor that has the number format already is its file. Others are copied piece by piece; where they are merged or
    quantized, there are copies of them at full size.
    """

    def beside(part: Part, name: str, tensor: Tensor) -> int:
        count = tensor.numel()
        is_merged = part.lora is not None and name in part.lora.pairs  # in fp32: the weight, and its sum with the rest
        per_value = tensor.dtype.itemsize + (2 * torch.float32.itemsize if is_merged else dtype.itemsize)
        piece = min(count, PIECE * torch.get_num_threads()) * per_value
        if isinstance(tensor, DeferredTensor) and not part.is_quantized:
            piece += count * tensor.dtype.itemsize
        if _bytes_per_value(part, name, tensor, dtype, quantization, on_cpu=True) == dtype.itemsize:
            return piece
        is_read_by_rows = name == HEAD and not part.is_quantized
        return count * (torch.int8.itemsize if is_read_by_rows else dtype.itemsize) + piece

    most = max((beside(part, name, t) for part in parts for name, t in part.tensors.items()), default=0)
    return weight_bytes(parts, dtype, quantization, on_cpu=True) + most


def _bytes_per_value(
    part: Part, name: str, tensor: Tensor, dtype: torch.dtype, quantization: str, on_cpu: bool
) -> float:
    if quantization == "none" or not part.is_quantizable or tensor.dim() != 2 or "embed" in name:
        return dtype.itemsize
    if name == HEAD:
        return _QUANTIZED_BYTES["8bit"] if on_cpu else dtype.itemsize
    return _QUANTIZED_BYTES[quantization]


def kv_bytes_per_token(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers of a language model."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * width * dtype.itemsize)


def plan_keys_and_values(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    serving: Serving,
    *,
    context_tokens: int,
    device: torch.device,
    free: int,
) -> KeysAndValues:
    """How many chats at once, and what their keys and values may take of `free` bytes.

    On a CPU as many as cost little, up to eight, but two in any case: each has a place at full length, and one of them
    a copy for decoding. Elsewhere, where memory is for nothing else, eight and at most half of what is free.
    """
    on_cpu = device.type == "cpu"
    one = context_tokens * kv_bytes_per_token(config, dtype)
    count, asked_bytes = serving.max_chats, serving.kv_bytes
    mask = context_tokens * (CPU_STEP_TOKENS if on_cpu else GPU_STEP_TOKENS) * dtype.itemsize
    paged = int((one + mask) / USABLE)
    if count is None:
        few = min(_MOST_CHATS, max(_LEAST_CHATS, ((asked_bytes or _LITTLE) - one) // paged))
        count = few if on_cpu else _MOST_CHATS
    # At most pages for every chat, those between two questions too, and a copy of each for decoding without pages.
    most = count * (int(PARKED * paged * USABLE) + one)
    if asked_bytes is None:
        half = int(free * _SHARE_OF_FREE)
        asked_bytes = min(half, max(count * paged + one, _LITTLE)) if on_cpu else half
    return KeysAndValues(chats=count, num_bytes=min(most, asked_bytes), one_chat=paged + one)


def image_slots(*, context_tokens: int, num_image_tokens: int, max_concurrent: int) -> int:
    """How many encoded images are kept: as many as fit one context, or four for each running chat if that is more."""
    return max(context_tokens // num_image_tokens + 1, 4 * max_concurrent)
