"""A lone chat's answer, decoded over contiguous keys and values instead of pages, as `generate` does it.

Pages are written and gathered in every layer at every token, and a batch is prepared and masked each time; for a single
request all of that is in vain. So while exactly one request is being answered and nobody waits, its pages are copied
once into a cache of its own, and what was added is copied back when anything else comes up. To the library, its
scheduler and its prefix cache this looks as if it had done the steps itself.

L tokens so far, C room for tokens, K key and value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cache_allocators.full_attention import FullAttentionCacheAllocator
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from app.engine_attention import quick
from app.engine_pages import plain_pages, token_rows
from app.sampling import RequestSampler

_ROOM = 256  # tokens by which it grows


class ContiguousCache:
    """Keys and values of one request, [1, K, L, D] in each layer; offers what attention and masks ask a cache for.

    Room is kept ahead, so a new token is written in place, where transformers' own cache copies everything.
    """

    def __init__(self, allocator: FullAttentionCacheAllocator, rows: list[int]) -> None:
        """Copy the tokens that are in these rows of the pages."""
        views = token_rows(allocator)
        self._pages = [views[layer] for layer in allocator.layer_indices]
        self._heads, self._head_dim = allocator.num_key_value_heads, allocator.head_dim
        self.length = len(rows)
        self._keys, self._values = self._make(_room_for(self.length)), self._make(_room_for(self.length))
        index = self._index(rows)
        for mine, side in ((self._keys, 0), (self._values, 1)):
            for layer, pages in enumerate(self._pages):
                found = pages[side].index_select(0, index).view(-1, self._heads, self._head_dim)
                mine[layer, 0, :, : self.length] = found.transpose(0, 1)

    def begin_token(self) -> None:
        """Make a place for one more token in all layers."""
        if self.length == self._keys.shape[3]:
            self._keys, self._values = self._grown(self._keys), self._grown(self._values)
        self._new_keys = self._keys.narrow(3, self.length, 1).unbind()
        self._new_values = self._values.narrow(3, self.length, 1).unbind()
        self.length += 1
        self._all_keys = self._keys.narrow(3, 0, self.length).unbind()
        self._all_values = self._values.narrow(3, 0, self.length).unbind()

    def store(self, rows: list[int]) -> None:
        """Copy the newest tokens to these rows of the pages."""
        index, start = self._index(rows), self.length - len(rows)
        for mine, side in ((self._keys, 0), (self._values, 1)):
            for layer, pages in enumerate(self._pages):
                pages[side].index_copy_(0, index, mine[layer, 0, :, start : self.length].transpose(0, 1).flatten(1))

    # What transformers' attention and masks call ----------------------------------------------------------------------

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """One token's keys and values [1, K, 1, D] -> those of all tokens [1, K, L, D]."""
        self._new_keys[layer].copy_(keys)
        self._new_values[layer].copy_(values)
        return quick(self._all_keys[layer]), self._all_values[layer]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the one that is computed."""
        del layer_idx
        return self.length - 1

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Tokens that attention sees, and where they begin."""
        del query_length, layer_idx
        return self.length, 0

    def _make(self, room: int) -> Tensor:
        return self._pages[0][0].new_empty(len(self._pages), 1, self._heads, room, self._head_dim)

    def _grown(self, old: Tensor) -> Tensor:
        new = self._make(_room_for(old.shape[3]))
        new[:, :, :, : old.shape[3]] = old
        return new

    def _index(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows, device=self._pages[0][0].device)


class SoloDecoder:
    """Decodes for a generation loop while it has one request. Used by the loop's thread alone.

    `is_disturbed` says whether the loop has anything else to look at: new requests, cancellations, an end.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: ContinuousBatchProcessor,
        sampler: RequestSampler,
        is_disturbed: Callable[[], bool],
    ) -> None:
        self._model = model
        self._processor = processor
        self._sampler = sampler
        self._is_disturbed = is_disturbed
        self._cache: PagedAttentionCache = processor.cache
        allocator = plain_pages(processor.cache)
        assert allocator is not None  # see can_decode_alone
        self._allocator = allocator
        self.num_tokens = 0  # decoded here since the start

    def run(self) -> bool:
        """Decode until the answer ends or something else comes up. False where there was nothing to do here."""
        state = self._lone_request()
        if state is None or not self._has_page(state):
            return False
        start = state.position_offset
        rows = self._allocator.get_read_indices(state.request_id, start, 0)
        cache = ContiguousCache(self._allocator, rows)
        while True:
            token = self._next_token(state, cache)
            is_finished = state.update_and_check_completion(token, None)
            self.num_tokens += 1
            if is_finished or self._is_disturbed() or not self._has_page(state):
                break
            self._processor.output_router.deliver(state.to_generation_output())
        self._store(state, cache, start)
        if is_finished:
            self._processor.scheduler.finish_request(state.request_id)
            self._processor.scheduler.block_new_requests = False
        self._processor.output_router.deliver(state.to_generation_output())
        return True

    def _lone_request(self) -> RequestState | None:
        """The only request, if its prompt is read and nobody else is there."""
        scheduler = self._processor.scheduler
        if len(scheduler.active_requests) != 1 or scheduler.waiting_requests or self._is_disturbed():
            return None
        (state,) = scheduler.active_requests.values()
        is_ready = state.status == RequestStatus.DECODING and len(state.tokens_to_process) == 1
        return state if is_ready and not state.is_cpu_offloaded else None

    def _has_page(self, state: RequestState) -> bool:
        """Whether there is a place for one more token in the request's pages, taking a new page where one begins."""
        pages = len(self._allocator.block_table[state.request_id])
        if state.position_offset < pages * self._allocator.tokens_per_page:
            return True
        self._processor.scheduler._try_to_meet_safety_margin()  # forgets old pages, as each step of the library does
        return self._cache.can_store_request_tokens(state, 1)

    def _next_token(self, state: RequestState, cache: ContiguousCache) -> int:
        device = self._processor.model_device
        cache.begin_token()
        step: dict[str, Any] = {
            "input_ids": torch.tensor([state.tokens_to_process], device=device),
            "position_ids": torch.tensor([[state.position_offset]], device=device),
            "past_key_values": cache,
        }
        logits: Tensor = self._model(**step, use_cache=True).logits  # [1, 1, V]
        state.position_offset += 1
        return self._sampler.choose(state, logits[0].float())

    def _store(self, state: RequestState, cache: ContiguousCache, start: int) -> None:
        """Bring the pages up to date, and note which are full, so that later questions find them."""
        end, size = state.position_offset, self._allocator.tokens_per_page
        cache.store(self._allocator.get_write_indices(state.request_id, start, end - start))
        if self._cache.use_prefix_sharing and end // size > start // size:
            ids = state.initial_tokens + state.generated_tokens
            self._allocator.mark_complete_blocks(state.request_id, ids, end // size - start // size)


def can_decode_alone(cache: PagedAttentionCache) -> bool:
    """Whether attention is SDPA (the library knows an eager one besides) over plain pages."""
    return plain_pages(cache) is not None and cache.config._attn_implementation == "sdpa"


def _room_for(tokens: int) -> int:
    """Room for these and at least one more."""
    return (tokens // _ROOM + 1) * _ROOM
