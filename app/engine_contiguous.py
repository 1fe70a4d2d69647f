"""Keys and values of the chats that are being answered, side by side in memory instead of in pages.

B requests, L tokens of the longest so far, C room for tokens, K key and value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cache_allocators.full_attention import FullAttentionCacheAllocator

from app.engine_attention import quick
from app.engine_pages import token_rows

ROOM = 256  # tokens ahead: memory that is not used yet costs nothing


class ContiguousCache:
    """Keys and values [B, K, L, D] in each layer; offers what attention and masks ask a cache for.

    All requests end at the same place, so that their next tokens lie in one column; before the shorter ones there is
    padding, which `mask` hides. Room is kept ahead, so that new tokens are written in place, where transformers' own
    cache copies everything.
    """

    def __init__(self, allocator: FullAttentionCacheAllocator, rows: Sequence[Sequence[int]]) -> None:
        """Copy the tokens that are in these rows of the pages, at least one for each request."""
        views = token_rows(allocator)
        self._pages = [views[layer] for layer in allocator.layer_indices]
        self._heads, self._head_dim = allocator.num_key_value_heads, allocator.head_dim
        self.length = max(map(len, rows))
        self._paddings = [self.length - len(own) for own in rows]
        # Padding repeats a request's first token: whatever memory happens to hold might be no number, mask or not.
        index = self._index([row for own in rows for row in (*([own[0]] * (self.length - len(own))), *own)])
        self._keys, self._values = self._make(len(rows), self.length), self._make(len(rows), self.length)
        for mine, side in ((self._keys, 0), (self._values, 1)):
            for layer, pages in enumerate(self._pages):
                found = pages[side].index_select(0, index).view(len(rows), -1, self._heads, self._head_dim)
                mine[layer, :, :, : self.length] = found.transpose(1, 2)
        self._all_masks = self._make_mask()

    def begin_token(self) -> None:
        """Make a place for one more token of each request in all layers."""
        if self.length == self._keys.shape[3]:
            self.keep(range(len(self._paddings)))
        self._new_keys = self._keys.narrow(3, self.length, 1).unbind()
        self._new_values = self._values.narrow(3, self.length, 1).unbind()
        self.length += 1
        self._all_keys = self._keys.narrow(3, 0, self.length).unbind()
        self._all_values = self._values.narrow(3, 0, self.length).unbind()

    @property
    def mask(self) -> Tensor | None:
        """[B, 1, 1, L], zero for tokens and -inf for padding; None where there is none."""
        return None if self._all_masks is None else self._all_masks.narrow(3, 0, self.length)

    def keep(self, requests: Sequence[int]) -> None:
        """Forget all but these, and padding that none of them needs; make new room."""
        start = min(self._paddings[request] for request in requests)
        self._keys, self._values = (self._moved(old, requests, start) for old in (self._keys, self._values))
        self._paddings = [self._paddings[request] - start for request in requests]
        self.length -= start
        self._all_masks = self._make_mask()

    def store(self, request: int, rows: Sequence[int]) -> None:
        """Copy a request's newest tokens to these rows of the pages."""
        index, start = self._index(rows), self.length - len(rows)
        for mine, side in ((self._keys, 0), (self._values, 1)):
            for layer, pages in enumerate(self._pages):
                new = mine[layer, request, :, start : self.length]
                pages[side].index_copy_(0, index, new.transpose(0, 1).flatten(1))

    # What transformers' attention and masks call ----------------------------------------------------------------------

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Keys and values [B, K, 1, D] of a token each -> those of all tokens [B, K, L, D]."""
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

    def _make(self, requests: int, tokens: int) -> Tensor:
        return self._pages[0][0].new_empty(len(self._pages), requests, self._heads, room_for(tokens), self._head_dim)

    def _make_mask(self) -> Tensor | None:
        if not any(self._paddings):
            return None
        mask = self._keys.new_zeros(len(self._paddings), 1, 1, self._keys.shape[3])
        for request, padding in enumerate(self._paddings):
            mask[request, :, :, :padding] = -torch.inf
        return mask

    def _moved(self, old: Tensor, requests: Sequence[int], start: int) -> Tensor:
        new = self._make(len(requests), self.length - start)
        for to, request in enumerate(requests):
            new[:, to, :, : self.length - start] = old[:, request, :, start : self.length]
        return new

    def _index(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, device=self._pages[0][0].device)


def room_for(tokens: int) -> int:
    """Room for these and those to come."""
    return tokens + ROOM
