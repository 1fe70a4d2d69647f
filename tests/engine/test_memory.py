"""Memory that is taken when it is used, how many images are held, and which errors mean that memory ran out."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.random_models import SMALL, random_model
from engine.chat_engine import ChatEngine
from engine.memory import ZerosFrom, is_out_of_memory, zeros_on_demand
from models.conversation import Turn
from models.errors import NotEnoughMemory
from models.memory.serving import Serving
from models.memory.sizes import image_slots
from tests.engine.helpers import last
from tests.own_memory import own_and_mapped
from tests.tiny_model import GREEDY, tiny_model

MIB = 2**20
only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the memory is counted differently")


@pytest.mark.parametrize(
    ("context_tokens", "num_image_tokens", "max_concurrent", "slots"),
    [(512, 32, 2, 17), (512, 256, 8, 32)],  # a context full of images and one more, or four for each chat
)
def test_there_is_room_for_the_images_of_the_longest_conversation_and_of_every_chat(
    context_tokens: int, num_image_tokens: int, max_concurrent: int, slots: int
) -> None:
    found = image_slots(context_tokens=context_tokens, num_image_tokens=num_image_tokens, max_concurrent=max_concurrent)
    assert found == slots


def test_errors_that_mean_that_memory_ran_out() -> None:
    on_a_cpu = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
    assert all(map(is_out_of_memory, (MemoryError(), torch.OutOfMemoryError(), on_a_cpu)))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


@only_on_linux
@pytest.mark.parametrize("within", [False, True])
def test_zeros_take_memory_when_they_are_written_to(within: bool) -> None:
    before = own_and_mapped()[0]
    if within:
        with ZerosFrom():
            zeros = torch.zeros(64 * MIB, dtype=torch.uint8, device=torch.device("cpu"))
            assert torch.zeros(3).tolist() == [0, 0, 0]
    else:
        zeros = zeros_on_demand(16, MIB, dtype=torch.float32)
    assert own_and_mapped()[0] - before < 4 * MIB
    half = zeros.view(-1)[: zeros.numel() // 2]
    half.fill_(1)
    assert 32 * MIB <= own_and_mapped()[0] - before < 40 * MIB
    assert not zeros.view(-1)[zeros.numel() // 2 :].any()


@pytest.mark.skipif(sys.platform == "win32", reason="zeros are ordinary ones there")
@pytest.mark.parametrize("count", [2**50, 2**63])  # more than there is, and than can be asked for
def test_more_zeros_than_there_can_be_are_memory_that_ran_out(count: int) -> None:
    with pytest.raises(MemoryError):
        zeros_on_demand(count, dtype=torch.uint8)


def test_images_of_more_chats_than_there_is_memory_for_are_one_line() -> None:
    with pytest.raises(
        NotEnoughMemory, match=r"no memory for 4,[\d,]+ images.*; take fewer chats \(--max-chats\)"
    ) as error:
        ChatEngine(tiny_model(), max_concurrent=10**12)
    assert "\n" not in str(error.value)


def test_few_zeros_are_ordinary_ones() -> None:
    zeros = zeros_on_demand(2, 3, dtype=torch.bfloat16)
    assert (zeros.shape, zeros.dtype, bool(zeros.any())) == ((2, 3), torch.bfloat16, False)


@only_on_linux
def test_an_engine_takes_memory_for_keys_and_values_when_chats_come() -> None:
    """Of the room for eight whole conversations, no more than what one short chat has written."""
    model = random_model(
        "llama", replace(SMALL, layers=16, hidden=256, heads=4, key_value_heads=4), context_tokens=4096
    )
    with ChatEngine(model, max_concurrent=1):  # whatever is loaded by a first engine
        pass
    before = own_and_mapped()[0]
    with ChatEngine(model, max_concurrent=8) as engine:
        stats = engine.stats()
        reserved = stats.pages_total * stats.page_bytes + stats.copy_bytes
        assert reserved > 1000 * MIB
        assert own_and_mapped()[0] - before < 100 * MIB
        last(engine, [Turn("user", "what is it")], GREEDY)
        assert own_and_mapped()[0] - before < 200 * MIB


def test_chats_queue_and_memory_are_as_the_configuration_says() -> None:
    model = tiny_model()
    model.serving = Serving(max_chats=3, max_queue=1, kv_bytes=2 * MIB)
    with ChatEngine(model) as engine:
        stats = engine.stats()
        assert stats.pages_total * stats.page_bytes + stats.copy_bytes <= 2 * MIB
        assert stats.image_slots >= 4 * 3
        assert (engine._admission.places, engine._admission._max_waiting) == (3, 1)
    with ChatEngine(model, max_concurrent=2, max_queue=0) as engine:
        assert (engine._admission.places, engine._admission._max_waiting) == (2, 0)


def test_eight_chats_at_once_where_they_cost_little() -> None:
    with ChatEngine(tiny_model()) as engine:
        assert engine._admission.places == 8
