"""How much memory the KV cache takes, and the sizes of a step: all fixed before the generation loop starts."""

from __future__ import annotations

import math

from transformers import PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from models.errors import NotEnoughMemory
from models.memory import sizes as memory

_COPY_SHARE = 0.25  # of the KV cache's memory for contiguous copies (see steady_decoder.py), if one conversation fits


def batching_config(
    language_model: PreTrainedModel,
    *,
    context_tokens: int,
    max_concurrent: int,
    max_batch_tokens: int,
    page_size: int,
    kv_bytes: int,
    with_copies: bool,
    reuses_prefixes: bool = True,
) -> tuple[ContinuousBatchingConfig, int]:
    """The library's settings, and the number of tokens of the contiguous cache (0: decode with pages alone).

    Raises NotEnoughMemory when the KV cache has no room for one conversation of `context_tokens`.
    """
    copied = kv_bytes_per_token(language_model)
    per_token = copied + mask_bytes_per_token(language_model, max_batch_tokens)
    one = math.ceil(context_tokens / page_size) + 1
    # One chat must fit below the mark from which on the library admits no more prompts.
    least, wanted = math.ceil(one / memory.USABLE), math.ceil(one * max_concurrent * memory.PARKED)
    affordable = kv_bytes // (per_token * page_size)
    if affordable < least:
        raise NotEnoughMemory(
            f"One conversation of {context_tokens} tokens needs {least * per_token * page_size / 2**20:.1f} MiB for "
            f"its keys and values, but {kv_bytes / 2**20:.1f} MiB are set aside on {language_model.device}. Close "
            "other programs, set more aside (--kv-memory), or use a smaller model, quantization or a shorter context."
        )
    copy_tokens = max(context_tokens, min(max_concurrent * context_tokens, int(kv_bytes * _COPY_SHARE) // copied))
    beside_copy = (kv_bytes - copied * copy_tokens) // (per_token * page_size)
    if beside_copy < least or not with_copies:
        copy_tokens, beside_copy = 0, affordable
    config = ContinuousBatchingConfig(
        page_size=page_size,
        num_blocks=min(wanted, beside_copy),
        max_batch_tokens=max(max_batch_tokens, max_concurrent),
        max_requests_per_batch=max_concurrent,
        max_memory_percent=1.0,  # checked above, against what is free rather than what is installed
        allow_block_sharing=reuses_prefixes,
        use_async_batching=False,  # the sampler looks at each token before the next step
        auto_switch_to_flash=False,  # with flash kernels, steps could not be captured (see cuda_graphs.py)
        use_cuda_graph=False,  # the sampler runs Python between the forward pass and the choice of tokens
    )
    return config, copy_tokens


def kv_bytes_per_token(language_model: PreTrainedModel) -> int:
    """Bytes of one token's keys and values in all layers."""
    return memory.kv_bytes_per_token(language_model.config, language_model.dtype)


def mask_bytes_per_token(language_model: PreTrainedModel, max_batch_tokens: int) -> int:
    """Bytes that one cached token adds to the dense attention mask [max_batch_tokens, cache] of SDPA and eager."""
    has_mask = "flash" not in (language_model.config._attn_implementation or "")
    return max_batch_tokens * language_model.dtype.itemsize if has_mask else 0
