"""What is announced before anything is allocated, added up for every released model at full size, on meta."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from transformers import GemmaConfig, LlamaConfig, MixtralConfig, PhiConfig

from models.memory.serving import Serving
from models.memory.sizes import (
    KeysAndValues,
    kv_bytes_per_token,
    loading_bytes,
    plan_keys_and_values,
    weight_bytes,
)
from models.quantization import wider_weights
from models.tensors.tensor_reader import PIECE
from models.tensors.weights import HEAD, Part
from tests.models.layouts import minigpt_full_size as minigpt
from tests.models.layouts import moe_full_size as moe

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LLAMA_7B = LlamaConfig.from_dict(minigpt.LLAMA_7B)
TINY = LlamaConfig(hidden_size=128, num_hidden_layers=5, num_attention_heads=4)
SIZES = {"hidden_size": 4096, "num_hidden_layers": 32}
MIB, GIB = 2**20, 2**30


def released() -> Iterator[tuple[str, dict[str, Part]]]:
    for name, layouts in minigpt.VARIANTS.items():
        yield name, minigpt.parts_of(name, layouts[0])
    for name, (layout, _) in moe.VARIANTS.items():
        yield name, moe.parts_of(name, layout)


@pytest.mark.parametrize(
    ("dtype", "quantization"), [(torch.bfloat16, "none"), (torch.float32, "8bit"), (torch.float32, "4bit")]
)
def test_loading_takes_at_most_a_tenth_more_than_the_weights(dtype: torch.dtype, quantization: str) -> None:
    for name, parts in released():
        weights = weight_bytes(parts.values(), dtype, quantization, on_cpu=True)
        worst = loading_bytes(parts.values(), dtype, quantization)
        assert weights < worst <= 1.1 * weights, name


def test_what_is_in_8_bits_counts_as_such_on_a_cpu_alone() -> None:
    for name, parts in released():
        part = parts["language_model"]
        head, wider = part.tensors.get(HEAD), wider_weights(part, "4bit")
        on_cpu, elsewhere = (weight_bytes(parts.values(), torch.bfloat16, "4bit", on_cpu=it) for it in (True, False))
        more = 0.44 * sum(part.tensors[weight].numel() for weight in wider)
        assert elsewhere - on_cpu + more == pytest.approx(0 if head is None else head.numel(), rel=0.02, abs=2**21), (
            name
        )
        assert weight_bytes(parts.values(), torch.bfloat16, "none", on_cpu=True) > elsewhere


def test_two_decoder_layers_of_every_released_model_are_wider_than_4_bits() -> None:
    for name, parts in released():
        part = parts["language_model"]
        layers = part.config.num_hidden_layers
        numbers = {int(re.search(r"layers\.(\d+)\.", weight)[1]) for weight in wider_weights(part, "4bit")}  # type: ignore[index]
        assert numbers == {0, layers - 1}, name
        assert not wider_weights(part, "8bit")


def test_a_merge_needs_room_for_some_rows_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    parts = minigpt.parts_of("minigpt_v2", "minigpt4/minigpt_v2").values()
    beside = loading_bytes(parts, torch.bfloat16, "none") - weight_bytes(parts, torch.bfloat16, "none")
    # The file's values (here as they are made on meta, in full precision), the weight and its sum with the update.
    assert beside == 3 * PIECE * 3 * 4


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (LLAMA_7B, 2 * 32 * 4096),
        (
            MixtralConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8),
            2 * 32 * 1024,
        ),
        (GemmaConfig(hidden_size=2048, num_hidden_layers=18, num_key_value_heads=1, head_dim=256), 2 * 18 * 256),
        (PhiConfig(hidden_size=2560, num_hidden_layers=32, num_attention_heads=32), 2 * 32 * 2560),
    ],
    ids=["llama", "mixtral", "gemma", "phi"],
)
def test_keys_and_values_of_a_token(config: LlamaConfig, values: int) -> None:
    assert kv_bytes_per_token(config, torch.bfloat16) == 2 * values


def room(config: LlamaConfig, device: torch.device = CPU, free: int = 64 * GIB, **serving: int) -> KeysAndValues:
    return plan_keys_and_values(
        config, torch.float32, Serving(**serving), context_tokens=2000, device=device, free=free
    )


def test_on_a_cpu_a_large_model_answers_two_and_a_small_one_eight() -> None:
    large, small = room(LLAMA_7B), room(TINY)
    assert (large.chats, small.chats) == (2, 8)
    one = 2000 * 2**20  # keys and values of 2000 tokens
    assert 2 * one / 0.85 + one < large.num_bytes < 2 * one / 0.85 + one + 10 * MIB  # and rows of the mask
    assert small.num_bytes < GIB


def test_what_is_asked_for_is_given() -> None:
    assert room(LLAMA_7B, max_chats=5).chats == 5
    assert room(LLAMA_7B, max_chats=5).num_bytes > room(LLAMA_7B).num_bytes
    assert room(LLAMA_7B, kv_bytes=3 * GIB).num_bytes == 3 * GIB
    assert room(LLAMA_7B, kv_bytes=14 * GIB).chats == 5  # as many as have a place at full length, and a copy of one
    assert room(TINY, max_chats=20).chats == 20


def test_half_of_the_free_memory_is_left_to_others() -> None:
    assert room(LLAMA_7B, free=4 * GIB).num_bytes == 2 * GIB
    gpu = room(LLAMA_7B, GPU, free=40 * GIB)
    assert (gpu.chats, gpu.num_bytes) == (8, 20 * GIB)
    assert room(LLAMA_7B, GPU, kv_bytes=GIB, max_chats=3) == replace(gpu, chats=3, num_bytes=GIB)


def test_more_than_two_conversations_of_each_chat_are_never_kept() -> None:
    """And a copy to decode in, wherever there is that much memory."""
    for device in (CPU, GPU):
        large = room(LLAMA_7B, device, free=640 * GIB, max_chats=3, kv_bytes=300 * GIB)
        assert 3 * 3 * 2000 * MIB < large.num_bytes < 3 * 3 * 2200 * MIB
