"""Decode steps over a contiguous KV cache, as in `generate`, while the batch stays the same: no prefill, no admission.

With a paged KV cache, each decode step writes and gathers pages in every layer, and prepares a batch and a mask anew.
While the same requests are decoded, that is not needed. So their pages are copied once into a contiguous cache, and the
new keys and values are copied back when the batch changes. The library's scheduler and prefix cache are left in the
state that its own steps would have produced.

B requests, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from queue import Queue
from typing import Any

from torch import Tensor, nn
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
from transformers.generation.continuous_batching.utils import drain_queue

from engine.batching.contiguous_cache import ContiguousCache
from engine.batching.device_copies import to_device
from engine.batching.paged_cache import plain_pages
from engine.batching.request_sampler import RequestSampler
from engine.native.native_step import NativeStep
from models.errors import NotFinite

_WORTH_A_COPY = 16  # tokens that several requests must have room for; a single request has room for its whole answer


@dataclass
class _Chat:
    """A request that is decoded here."""

    state: RequestState
    stored: int  # tokens whose keys and values are in its pages


class SteadyDecoder:
    """Decodes for a generation loop while its batch stays the same. Used by the loop's thread alone.

    `max_tokens` is the size of the contiguous cache. `has_other_work` says whether the loop has new requests, or is to
    stop; `cancellations` are handled here. `native` computes what the model would, where there is such.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: ContinuousBatchProcessor,
        sampler: RequestSampler,
        *,
        max_tokens: int,
        cancellations: Queue[str],
        has_other_work: Callable[[], bool],
        native: NativeStep | None = None,
    ) -> None:
        self._model = model
        self._native = native
        self._processor = processor
        self._sampler = sampler
        self._cancellations = cancellations
        self._has_other_work = has_other_work
        self._paged: PagedAttentionCache = processor.cache
        allocator = plain_pages(processor.cache)
        assert allocator is not None  # see can_decode_steadily
        self._allocator = allocator
        self._cache = ContiguousCache(allocator, max_tokens=max_tokens)
        self._chats: list[_Chat] = []  # in the order of the cache
        self.num_tokens = 0  # decoded here since the start

    def run(self) -> bool:
        """Decode until all answers end or the batch changes. False if there is no batch that can be decoded here."""
        states = self._steady_requests()
        lengths = [state.position_offset for state in states]
        if not states or not self._has_room(lengths) or not all(map(self._has_page, states)):
            return False
        self._chats = [_Chat(state, state.position_offset) for state in states]
        self._cache.load(
            [self._allocator.get_read_indices(state.request_id, n, 0) for state, n in zip(states, lengths, strict=True)]
        )
        while True:
            self._finish(self._step())
            self._drop_cancelled()
            states = [chat.state for chat in self._chats]
            if not states or self._has_other_work() or self._cache.is_full or not all(map(self._has_page, states)):
                break
            self._deliver(states)
        for request in range(len(states)):
            self._store(request)
        self._deliver(states)
        self._chats = []
        return True

    def _steady_requests(self) -> list[RequestState]:
        """All requests, if each is being decoded and none waits to be admitted or cancelled; else none."""
        scheduler = self._processor.scheduler
        if scheduler.waiting_requests or self._has_other_work() or not self._cancellations.empty():
            return []
        states = list(scheduler.active_requests.values())
        are_ready = all(
            state.status == RequestStatus.DECODING and len(state.tokens_to_process) == 1 for state in states
        )
        return states if are_ready else []

    def _has_room(self, lengths: list[int]) -> bool:
        """Whether requests of these lengths have room for enough new tokens to make the copy worth while."""
        least = 1 if len(lengths) == 1 else _WORTH_A_COPY
        return self._cache.room_for(lengths) >= max(lengths) + least

    def _has_page(self, state: RequestState) -> bool:
        """Whether the request's pages have room for one more token, after allocating a new page if it needs one."""
        pages = len(self._allocator.block_table[state.request_id])
        if state.position_offset < pages * self._allocator.tokens_per_page:
            return True
        self._processor.scheduler._try_to_meet_safety_margin()  # evicts cached pages, as each step of the library does
        return self._paged.can_store_request_tokens(state, 1)

    def _step(self) -> list[int]:
        """Decode one token for each request; the indices of those that ended."""
        states = [chat.state for chat in self._chats]
        ids = [state.tokens_to_process[0] for state in states]
        if self._native is not None and self._native.takes(ids):
            logits = self._native.run(
                ids,
                [state.position_offset for state in states],
                self._cache.paddings,
                self._cache.begin_native_token(),
                self._cache.memory,
            )
        else:
            logits = self._logits(states)
        tokens = self._sampler.choose(states, logits)
        self.num_tokens += len(states)
        for state in states:
            state.position_offset += 1
        return [
            request
            for request, (state, token) in enumerate(zip(states, tokens, strict=True))
            if state.update_and_check_completion(token, None)
        ]

    def _logits(self, states: list[RequestState]) -> Tensor:
        """What the model makes of each request's newest token, [B, V] in fp32."""
        device = self._processor.model_device
        self._cache.begin_token()
        step: dict[str, Any] = {
            "input_ids": to_device([state.tokens_to_process for state in states], device),
            "position_ids": to_device([[state.position_offset] for state in states], device),
            "attention_mask": self._cache.mask,
            "past_key_values": self._cache,
        }
        logits: Tensor = self._model(**step, use_cache=True).logits  # [B, 1, V]
        return logits[:, 0].float()

    def _finish(self, requests: list[int]) -> None:
        """Remove these requests, which have ended, and deliver their last outputs."""
        scheduler = self._processor.scheduler
        for request in reversed(requests):
            state = self._chats[request].state
            self._remove(request)
            scheduler.finish_request(state.request_id)
            scheduler.block_new_requests = False
            self._deliver([state])

    def _drop_cancelled(self) -> None:
        """Remove requests that were cancelled."""
        if self._cancellations.empty():
            return
        cancelled = drain_queue(self._cancellations)
        for request in reversed(range(len(self._chats))):
            if self._chats[request].state.request_id in cancelled:
                self._remove(request)  # its pages stay cached for the next question of that chat
        for request_id in cancelled:
            self._processor.scheduler.set_request_cancellation(request_id)
        self._processor.scheduler.clear_cancelled_requests()

    def _remove(self, request: int) -> None:
        """Store a request's new keys and values and remove it; the last one moves to its index, as in the cache."""
        self._store(request)
        self._cache.drop(request)
        self._chats[request] = self._chats[-1]
        self._chats.pop()

    def _store(self, request: int) -> None:
        """Copy a request's new keys and values to its pages, and enter full pages into the prefix cache."""
        state, start = self._chats[request].state, self._chats[request].stored
        end, size = state.position_offset, self._allocator.tokens_per_page
        if not self._cache.store(request, self._allocator.get_write_indices(state.request_id, start, end - start)):
            self._sampler.on_failed(state.request_id, NotFinite.computed_by("The language model"))
        elif self._paged.use_prefix_sharing and end // size > start // size:
            ids = state.initial_tokens + state.generated_tokens
            self._allocator.mark_complete_blocks(state.request_id, ids, end // size - start // size)

    def _deliver(self, states: list[RequestState]) -> None:
        self._processor.output_router.deliver_batch([state.to_generation_output() for state in states])


def can_decode_steadily(cache: PagedAttentionCache) -> bool:
    """Whether the cache has plain pages and attention is SDPA."""
    return plain_pages(cache) is not None and cache.config._attn_implementation == "sdpa"
