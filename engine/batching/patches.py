"""What is replaced on the library's own objects, as it has no hooks for it.

All else is changed by classes that derive from its own. tests/engine/batching/test_library_names.py lists every name
of the library that this folder relies on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor
from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs
from transformers.generation.continuous_batching.utils import attn_mask_is_needed, stream_context

from engine.batching.broken_tokens import BrokenTokens, end_unread
from engine.batching.device_copies import CopiesWithoutWaiting
from engine.batching.native_prompts import NativePrompts
from engine.batching.paged_cache import fast_update
from engine.batching.request_sampler import RequestSampler


def replace_method(owner: object, name: str, method: Callable[..., Any]) -> None:
    """Replace a method of one object. Raises AttributeError if it has none of this name."""
    if not callable(getattr(owner, name)):
        raise AttributeError(f"{type(owner).__name__}.{name} is not a method")
    setattr(owner, name, method)


def use_fast_update(cache: PagedAttentionCache, broken: BrokenTokens) -> None:
    """Replace the cache's `update` by a faster one, where there is one (see paged_cache.py), behind `broken.contain`.

    Flash-attention kernels have no mask: each request attends to its own keys and values, whatever the others' hold.
    """
    if not attn_mask_is_needed(cache.config):
        return
    update = fast_update(cache) or cache.update

    def contained(
        key_states: Tensor, value_states: Tensor, layer_idx: int, kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        return update(*broken.contain(key_states, value_states, layer_idx), layer_idx, kwargs)

    replace_method(cache, "update", contained)


def count_reuse(cache: PagedAttentionCache, count: Callable[[str, int], None]) -> None:
    """Call `count` with each request's id and the number of tokens of its prompt found in the prefix cache."""
    search = cache.search_prefix_match

    def search_and_count(request_id: str, prompt_ids: list[int]) -> int:
        found: int = search(request_id, prompt_ids)
        count(request_id, found)
        return found

    replace_method(cache, "search_prefix_match", search_and_count)


def end_broken_requests(processor: ContinuousBatchProcessor, sampler: RequestSampler, broken: BrokenTokens) -> None:
    """Put NO_TOKEN in place of tokens from NaN or infinity in logits, keys or values, without waiting for the device.

    The library reads NO_TOKEN with the other requests' tokens, and then ends this request alone.
    """
    runner, inputs = processor.model_runner, cast(ContinuousBatchingIOs, processor.inputs_and_outputs)
    sample, read = runner._sample, inputs.prepare_batch_update

    def sample_and_mark(scores: Tensor, output_ids: Tensor) -> None:
        sample(scores, output_ids)
        tokens = output_ids[0, : scores.shape[1]]
        tokens.copy_(sampler.without_broken(tokens))
        broken.mark(output_ids[0], inputs.requests_in_batch)

    def read_and_end() -> Any:
        requests, tokens, logprobs = read()
        return requests, end_unread(requests, tokens), logprobs

    replace_method(runner, "_sample", sample_and_mark)
    replace_method(inputs, "prepare_batch_update", read_and_end)


def leave_config_alone(processor: ContinuousBatchProcessor) -> None:
    """Keep the loop's forward passes from writing to the model's config, which all threads share.

    Given `is_causal=False`, transformers sets it in the config for the time of the call. In another thread, a forward
    pass of `generate` then builds no causal mask, and may leave that value in the config for good. With a mask, which
    continuous batching gives to all but flash attention, the argument has no other effect.
    """
    inputs = processor.inputs_and_outputs
    with_is_causal = inputs.get_model_kwargs

    def get_model_kwargs(use_padding: bool = False) -> Any:
        kwargs: Any = with_is_causal(use_padding)
        if kwargs["attention_mask"] is not None:
            del kwargs["is_causal"]
        return kwargs

    replace_method(inputs, "get_model_kwargs", get_model_kwargs)


def wait_once(processor: ContinuousBatchProcessor) -> None:
    """Let a step on a GPU wait for the device once; the library's waits for each of its inputs and twice at the end.

    Inputs are prepared in the stream that computes, so they need not have arrived before the step is launched. The
    chosen tokens are read in that stream, so it need not be empty before.
    """
    inputs = processor.inputs_and_outputs
    prepare, read = inputs.prepare_batch_tensors, inputs.prepare_batch_update

    def prepare_batch_tensors(*args: Any, **kwargs: Any) -> None:
        with stream_context(inputs.compute_stream), CopiesWithoutWaiting():
            prepare(*args, **kwargs)

    def prepare_batch_update() -> Any:
        with stream_context(inputs.compute_stream):
            return read()

    replace_method(inputs, "prepare_batch_tensors", prepare_batch_tensors)
    replace_method(inputs, "prepare_batch_update", prepare_batch_update)
    replace_method(inputs, "retrieve_device_outputs", lambda: None)


def use_native_prompts(processor: ContinuousBatchProcessor, prompts: NativePrompts) -> None:
    """Let the library's steps ask this in the place of the model."""
    runner = processor.model_runner
    run = runner._forward_process_and_sample

    def run_natively(_: nn.Module, *args: Any) -> None:
        run(cast(nn.Module, prompts), *args)

    replace_method(runner, "_forward_process_and_sample", run_natively)
