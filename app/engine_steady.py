"""Decoding while the same chats are answered and nobody comes: over contiguous keys and values, as `generate` does.

With pages, keys and values are written and gathered in every layer at every token, each request attends to the pages of
all under a mask, and a batch is prepared anew each time; while nothing changes all of that is in vain. So the requests'
pages are copied once into a cache of their own, and what was added is copied back when anything else comes up. To the
library, its scheduler and its prefix cache this looks as if it had done the steps itself.

B requests, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from queue import Queue
from typing import Any

import torch
from torch import Tensor, nn
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
from transformers.generation.continuous_batching.utils import drain_queue

from app.engine_contiguous import ContiguousCache, room_for
from app.engine_pages import plain_pages
from app.sampling import RequestSampler


@dataclass
class _Group:
    """Requests that are decoded together, and how far each one's pages were filled when it began."""

    states: list[RequestState]
    stored: list[int]  # tokens
    cache: ContiguousCache

    def keep(self, requests: list[int]) -> None:
        """Forget all but these."""
        self.states = [self.states[request] for request in requests]
        self.stored = [self.stored[request] for request in requests]
        if requests:
            self.cache.keep(requests)


class SteadyDecoder:
    """Decodes for a generation loop while its requests stay the same. Used by the loop's thread alone.

    `max_tokens` bounds the copies' room. `is_disturbed` says whether the loop has anything else to look at but
    `cancellations`: new requests, an end.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: ContinuousBatchProcessor,
        sampler: RequestSampler,
        *,
        max_tokens: int,
        cancellations: Queue[str],
        is_disturbed: Callable[[], bool],
    ) -> None:
        self._model = model
        self._processor = processor
        self._sampler = sampler
        self._max_tokens = max_tokens
        self._cancellations = cancellations
        self._is_disturbed = is_disturbed
        self._cache: PagedAttentionCache = processor.cache
        allocator = plain_pages(processor.cache)
        assert allocator is not None  # see can_decode_steadily
        self._allocator = allocator
        self.num_tokens = 0  # decoded here since the start

    def run(self) -> bool:
        """Decode until all answers end or something else comes up. False where there was nothing to do here."""
        states = self._steady_requests()
        if not states or not self._can_go_on(states):
            return False
        stored = [state.position_offset for state in states]
        rows = [self._allocator.get_read_indices(state.request_id, state.position_offset, 0) for state in states]
        group = _Group(states, stored, ContiguousCache(self._allocator, rows))
        while True:
            ended = self._step(group)
            if ended:
                self._finish(group, ended)
            self._drop_cancelled(group)
            if not group.states or self._is_disturbed() or not self._can_go_on(group.states):
                break
            self._deliver(group.states)
        for request in range(len(group.states)):
            self._store(group, request)
        self._deliver(group.states)
        return True

    def _steady_requests(self) -> list[RequestState]:
        """All requests, if their prompts are read and nobody else is there."""
        scheduler = self._processor.scheduler
        if scheduler.waiting_requests or self._is_disturbed() or not self._cancellations.empty():
            return []
        states = list(scheduler.active_requests.values())
        are_ready = all(
            state.status == RequestStatus.DECODING and len(state.tokens_to_process) == 1 and not state.is_cpu_offloaded
            for state in states
        )
        return states if are_ready else []

    def _can_go_on(self, states: list[RequestState]) -> bool:
        """Whether there is room for one more token of each in the copy, and a place in its pages."""
        longest = max(state.position_offset for state in states)
        return len(states) * room_for(longest) <= self._max_tokens and all(map(self._has_page, states))

    def _has_page(self, state: RequestState) -> bool:
        """Whether there is a place for one more token in the request's pages, taking a new page where one begins."""
        pages = len(self._allocator.block_table[state.request_id])
        if state.position_offset < pages * self._allocator.tokens_per_page:
            return True
        self._processor.scheduler._try_to_meet_safety_margin()  # forgets old pages, as each step of the library does
        return self._cache.can_store_request_tokens(state, 1)

    def _step(self, group: _Group) -> list[int]:
        """One token for each request; the numbers of those that ended."""
        device, states = self._processor.model_device, group.states
        group.cache.begin_token()
        step: dict[str, Any] = {
            "input_ids": torch.tensor([state.tokens_to_process for state in states], device=device),
            "position_ids": torch.tensor([[state.position_offset] for state in states], device=device),
            "attention_mask": group.cache.mask,
            "past_key_values": group.cache,
        }
        logits: Tensor = self._model(**step, use_cache=True).logits  # [B, 1, V]
        tokens = self._sampler.choose(states, logits[:, 0].float())
        self.num_tokens += len(states)
        for state in states:
            state.position_offset += 1
        return [
            request
            for request, (state, token) in enumerate(zip(states, tokens, strict=True))
            if state.update_and_check_completion(token, None)
        ]

    def _finish(self, group: _Group, requests: list[int]) -> None:
        """Let the loop have these back; they have ended."""
        states = [group.states[request] for request in requests]
        for request, state in zip(requests, states, strict=True):
            self._store(group, request)
            self._processor.scheduler.finish_request(state.request_id)
        self._processor.scheduler.block_new_requests = False
        group.keep([request for request in range(len(group.states)) if request not in requests])
        self._deliver(states)

    def _drop_cancelled(self, group: _Group) -> None:
        """Let go of requests whose readers have."""
        if self._cancellations.empty():
            return
        cancelled = drain_queue(self._cancellations)
        kept = []
        for request, state in enumerate(group.states):
            if state.request_id in cancelled:
                self._store(group, request)  # the next question of that chat finds them
            else:
                kept.append(request)
        for request_id in cancelled:
            self._processor.scheduler.set_request_cancellation(request_id)
        self._processor.scheduler.clear_cancelled_requests()
        if len(kept) < len(group.states):
            group.keep(kept)

    def _deliver(self, states: list[RequestState]) -> None:
        self._processor.output_router.deliver_batch([state.to_generation_output() for state in states])

    def _store(self, group: _Group, request: int) -> None:
        """Bring a request's pages up to date, and note which are full, so that later questions find them."""
        state, start = group.states[request], group.stored[request]
        end, size = state.position_offset, self._allocator.tokens_per_page
        group.cache.store(request, self._allocator.get_write_indices(state.request_id, start, end - start))
        if self._cache.use_prefix_sharing and end // size > start // size:
            ids = state.initial_tokens + state.generated_tokens
            self._allocator.mark_complete_blocks(state.request_id, ids, end // size - start // size)


def can_decode_steadily(cache: PagedAttentionCache) -> bool:
    """Whether attention is SDPA (the library knows an eager one besides) over plain pages."""
    return plain_pages(cache) is not None and cache.config._attn_implementation == "sdpa"
