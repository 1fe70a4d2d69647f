"""How a budget is divided between pages and the contiguous cache."""

from __future__ import annotations

import math

import pytest

from engine.batching.cache_sizes import batching_config, kv_bytes_per_token, mask_bytes_per_token
from models.errors import NotEnoughMemory
from models.vision_language_model import VisionLanguageModel

CONTEXT, PAGE, CHATS, STEP = 512, 8, 4, 64
PAGES = CONTEXT // PAGE + 1  # of one conversation: its last page, too, may be begun
LEAST = math.ceil(PAGES / 0.85)  # the library admits no prompt while less than 15 % of the pages are free


def divide(model: VisionLanguageModel, kv_bytes: int, *, with_copies: bool = True) -> tuple[int, int]:
    """Pages, and tokens of the contiguous cache."""
    config, copy_tokens = batching_config(
        model.language_model,
        context_tokens=CONTEXT,
        max_concurrent=CHATS,
        max_batch_tokens=STEP,
        page_size=PAGE,
        kv_bytes=kv_bytes,
        with_copies=with_copies,
    )
    assert config.num_blocks is not None
    return config.num_blocks, copy_tokens


def page_bytes(model: VisionLanguageModel) -> int:
    language_model = model.language_model
    return PAGE * (kv_bytes_per_token(language_model) + mask_bytes_per_token(language_model, STEP))


def test_keys_and_values_of_two_layers_in_fp32(model: VisionLanguageModel) -> None:
    assert kv_bytes_per_token(model.language_model) == 2 * 2 * 16 * 4  # keys and values, 2 heads of width 8
    assert mask_bytes_per_token(model.language_model, STEP) == STEP * 4


def test_with_much_memory_every_chat_has_pages_for_two_conversations_and_a_copy(model: VisionLanguageModel) -> None:
    assert divide(model, 2**30) == (2 * CHATS * PAGES, CHATS * CONTEXT)
    assert divide(model, 2**30, with_copies=False) == (2 * CHATS * PAGES, 0)


def test_the_least_memory_is_that_of_one_conversation_in_pages(model: VisionLanguageModel) -> None:
    least = LEAST * page_bytes(model)
    assert divide(model, least) == (LEAST, 0)
    with pytest.raises(NotEnoughMemory, match="One conversation of 512 tokens"):
        divide(model, least - 1)


def test_the_copy_has_room_for_one_conversation_or_is_left_out(model: VisionLanguageModel) -> None:
    copy = CONTEXT * kv_bytes_per_token(model.language_model)
    both = LEAST * page_bytes(model) + copy
    assert divide(model, both) == (LEAST, CONTEXT)
    assert divide(model, both - 1)[1] == 0


def test_the_copy_takes_a_quarter_of_the_memory(model: VisionLanguageModel) -> None:
    kv_bytes = 8 * CONTEXT * kv_bytes_per_token(model.language_model)
    assert divide(model, kv_bytes)[1] == 2 * CONTEXT
