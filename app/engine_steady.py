"""Decoding while the same chats are answered and nobody comes: over contiguous keys and values, as `generate` does.

With pages, keys and values are written and gathered in every layer at every token, under a mask and with a batch that
are prepared anew each time; while nothing changes all of that is in vain. So the requests' pages are copied once into
a cache of their own, and what was added is copied back when anything else comes up. To the library, its scheduler and
its prefix cache this looks as if it had done the steps itself.

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

from app.engine_contiguous import ContiguousCache
from app.engine_pages import plain_pages
from app.sampling import RequestSampler

_WORTH_A_COPY = 16  # tokens that follow; a lone chat has room for all


@dataclass
class _Chat:
    """A request, and how far its pages were filled when it began to be decoded here."""

    state: RequestState
    stored: int  # tokens


class SteadyDecoder:
    """Decodes for a generation loop while its requests stay the same. Used by the loop's thread alone.

    `max_tokens` is the room for copies. `is_disturbed` says whether the loop has anything else to look at but
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
        self._cancellations = cancellations
        self._is_disturbed = is_disturbed
        self._paged: PagedAttentionCache = processor.cache
        allocator = plain_pages(processor.cache)
        assert allocator is not None  # see can_decode_steadily
        self._allocator = allocator
        self._cache = ContiguousCache(allocator, max_tokens=max_tokens)
        self._chats: list[_Chat] = []  # in the order of the cache
        self.num_tokens = 0  # decoded here since the start

    def run(self) -> bool:
        """Decode until all answers end or something else comes up. False where there was nothing to do here."""
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
            if not states or self._is_disturbed() or self._cache.is_full or not all(map(self._has_page, states)):
                break
            self._deliver(states)
        for request in range(len(states)):
            self._store(request)
        self._deliver(states)
        self._chats = []
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

    def _has_room(self, lengths: list[int]) -> bool:
        """Whether copies of requests of these lengths have room for enough tokens to be worth it."""
        least = 1 if len(lengths) == 1 else _WORTH_A_COPY
        return self._cache.room_for(lengths) >= max(lengths) + least

    def _has_page(self, state: RequestState) -> bool:
        """Whether there is a place for one more token in the request's pages, taking a new page where one begins."""
        pages = len(self._allocator.block_table[state.request_id])
        if state.position_offset < pages * self._allocator.tokens_per_page:
            return True
        self._processor.scheduler._try_to_meet_safety_margin()  # forgets old pages, as each step of the library does
        return self._paged.can_store_request_tokens(state, 1)

    def _step(self) -> list[int]:
        """One token for each request; the numbers of those that ended."""
        device, states = self._processor.model_device, [chat.state for chat in self._chats]
        self._cache.begin_token()
        step: dict[str, Any] = {
            "input_ids": torch.tensor([state.tokens_to_process for state in states], device=device),
            "position_ids": torch.tensor([[state.position_offset] for state in states], device=device),
            "attention_mask": self._cache.mask,
            "past_key_values": self._cache,
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

    def _finish(self, requests: list[int]) -> None:
        """Give these back to the loop; they have ended."""
        scheduler = self._processor.scheduler
        for request in reversed(requests):
            state = self._chats[request].state
            self._let_go(request)
            scheduler.finish_request(state.request_id)
            scheduler.block_new_requests = False
            self._deliver([state])

    def _drop_cancelled(self) -> None:
        """Let go of requests whose readers have."""
        if self._cancellations.empty():
            return
        cancelled = drain_queue(self._cancellations)
        for request in reversed(range(len(self._chats))):
            if self._chats[request].state.request_id in cancelled:
                self._let_go(request)  # with its tokens, which the next question of that chat finds
        for request_id in cancelled:
            self._processor.scheduler.set_request_cancellation(request_id)
        self._processor.scheduler.clear_cancelled_requests()

    def _let_go(self, request: int) -> None:
        """Bring its pages up to date and forget it; the last takes its place, as in the cache."""
        self._store(request)
        self._cache.drop(request)
        self._chats[request] = self._chats[-1]
        self._chats.pop()

    def _store(self, request: int) -> None:
        """Bring a request's pages up to date, and note which are full, so that later questions find them."""
        state, start = self._chats[request].state, self._chats[request].stored
        end, size = state.position_offset, self._allocator.tokens_per_page
        self._cache.store(request, self._allocator.get_write_indices(state.request_id, start, end - start))
        if self._paged.use_prefix_sharing and end // size > start // size:
            ids = state.initial_tokens + state.generated_tokens
            self._allocator.mark_complete_blocks(state.request_id, ids, end // size - start // size)

    def _deliver(self, states: list[RequestState]) -> None:
        self._processor.output_router.deliver_batch([state.to_generation_output() for state in states])


def can_decode_steadily(cache: PagedAttentionCache) -> bool:
    """Whether attention is SDPA (the library knows an eager one besides) over plain pages."""
    return plain_pages(cache) is not None and cache.config._attn_implementation == "sdpa"
