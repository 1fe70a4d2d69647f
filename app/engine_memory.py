"""How much memory the engine takes: KV pages and image places, both fixed when it starts."""

from __future__ import annotations

import math

import torch
from transformers import PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from models.devices import free_bytes
from models.errors import NotEnoughMemory

_SHARE_OF_FREE = 0.5  # the rest is for activations, vision tower and whatever else runs on the machine
_COPY_SHARE = (
    0.25  # of what is there for keys and values, for copies of those in use, if one conversation needs no more
)
_PARKED = 2.0  # KV for this many times the running chats: the rest keeps the prefixes of chats between two questions


def batching_config(
    language_model: PreTrainedModel,
    *,
    context_tokens: int,
    max_concurrent: int,
    max_batch_tokens: int,
    page_size: int,
    kv_bytes: int | None,
    with_copies: bool,
) -> tuple[ContinuousBatchingConfig, int]:
    """Sizes for the generation loop, and of how many tokens keys and values may be copied (see engine_steady).

    Raises NotEnoughMemory when not even one full conversation fits.
    """
    budget = int(free_bytes(language_model.device) * _SHARE_OF_FREE) if kv_bytes is None else kv_bytes
    per_token = kv_bytes_per_token(language_model) + mask_bytes_per_token(language_model, max_batch_tokens)
    one = math.ceil(context_tokens / page_size) + 1
    # The library stops admitting prompts when less than 15 % is free; one chat must fit below that mark.
    least, wanted = math.ceil(one / 0.85), math.ceil(one * max_concurrent * _PARKED)
    affordable = budget // (per_token * page_size)
    if affordable < least:
        raise NotEnoughMemory(
            f"One conversation of {context_tokens} tokens needs {least * per_token * page_size / 2**20:.1f} MiB for "
            f"its keys and values, but {budget / 2**20:.1f} MiB are set aside on {language_model.device}. Close other "
            "programs, or use a smaller model, quantization or a shorter context."
        )
    copied = kv_bytes_per_token(language_model)
    copy_tokens = max(context_tokens, min(max_concurrent * context_tokens, int(budget * _COPY_SHARE) // copied))
    beside_copy = (budget - copied * copy_tokens) // (per_token * page_size)
    if beside_copy < least or not with_copies:
        copy_tokens, beside_copy = 0, affordable
    config = ContinuousBatchingConfig(
        page_size=page_size,
        num_blocks=min(wanted, beside_copy),
        max_batch_tokens=max(max_batch_tokens, max_concurrent),
        max_requests_per_batch=max_concurrent,
        max_memory_percent=1.0,  # checked above, against what is free rather than what is installed
        use_async_batching=False,  # the sampler looks at each token before the next step
        auto_switch_to_flash=False,  # with flash kernels, steps could not be captured (engine_graphs)
        use_cuda_graph=False,  # the sampler runs Python between the forward pass and the choice of tokens
    )
    return config, copy_tokens


def kv_bytes_per_token(language_model: PreTrainedModel) -> int:
    """Keys and values of one token in all layers."""
    config = language_model.config.get_text_config()
    width = find_num_key_value_heads(config) * find_head_dim(config)
    return int(2 * config.num_hidden_layers * width * language_model.dtype.itemsize)


def mask_bytes_per_token(language_model: PreTrainedModel, max_batch_tokens: int) -> int:
    """Share of one cached token in the dense attention mask [max_batch_tokens, cache] that SDPA and eager need."""
    has_mask = "flash" not in (language_model.config._attn_implementation or "")
    return max_batch_tokens * language_model.dtype.itemsize if has_mask else 0


def image_slots(*, context_tokens: int, num_image_tokens: int, max_concurrent: int) -> int:
    """Places for images: the longest conversation in images, or four for each running chat."""
    return max(context_tokens // num_image_tokens + 1, 4 * max_concurrent)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or of the cache means that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
