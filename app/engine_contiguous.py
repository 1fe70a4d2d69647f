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

ROOM = 256  # tokens ahead of the longest request, if there is memory for them


class ContiguousCache:
    """Keys and values [B, K, L, D] in each layer; offers what attention and masks ask a cache for.

    All requests end at the same place, so that their next tokens lie in one column; before the shorter ones there is
    padding, which `mask` hides. New tokens are written in place, where transformers' own cache copies everything.
    The memory is taken once, for `max_tokens` of all requests together (a CPU gives it when it is first written to).
    """

    def __init__(self, allocator: FullAttentionCacheAllocator, *, max_tokens: int) -> None:
        views = token_rows(allocator)
        self._pages = [views[layer] for layer in allocator.layer_indices]
        self._heads, self._head_dim = allocator.num_key_value_heads, allocator.head_dim
        self._max_tokens = max_tokens
        size = len(self._pages) * max_tokens * self._heads * self._head_dim
        self._memory = [side.new_empty(size) for side in self._pages[0]]
        self._paddings: list[int] = []
        self.length = 0

    def room_for(self, lengths: Sequence[int]) -> int:
        """The room C that requests of these lengths would have, which is less than they need if memory is short."""
        return min(max(lengths) + ROOM, self._max_tokens // len(lengths))

    def load(self, rows: Sequence[Sequence[int]]) -> None:
        """Copy the tokens that are in these rows of the pages, at least one for each request."""
        lengths = [len(own) for own in rows]
        self.length = max(lengths)
        self._paddings = [self.length - length for length in lengths]
        shape = (len(self._pages), len(rows), self._heads, self.room_for(lengths), self._head_dim)
        self._keys, self._values = (memory[: torch.Size(shape).numel()].view(shape) for memory in self._memory)
        # Padding repeats a request's first token: whatever memory happens to hold might be no number, mask or not.
        index = self._index([row for own in rows for row in (*([own[0]] * (self.length - len(own))), *own)])
        for mine, side in ((self._keys, 0), (self._values, 1)):
            for layer, pages in enumerate(self._pages):
                found = pages[side].index_select(0, index).view(len(rows), -1, self._heads, self._head_dim)
                mine[layer, :, :, : self.length] = found.transpose(1, 2)
        self._hide_padding()

    @property
    def is_full(self) -> bool:
        """Whether there is no place for another token."""
        return self.length == self._keys.shape[3]

    def begin_token(self) -> None:
        """Make a place for one more token of each request in all layers."""
        self._new_keys, self._new_values = (
            side.narrow(3, self.length, 1).unbind() for side in (self._keys, self._values)
        )
        self.length += 1
        start, count = self._start, self.length - self._start
        self._all_keys, self._all_values = (
            side.narrow(3, start, count).unbind() for side in (self._keys, self._values)
        )

    @property
    def mask(self) -> Tensor | None:
        """[B, 1, 1, L], zero for tokens and -inf for padding; None where there is none."""
        return None if self._mask is None else self._mask.narrow(3, self._start, self.length - self._start)

    def drop(self, request: int) -> None:
        """Forget a request; the last one takes its place."""
        last = len(self._paddings) - 1
        if request < last:
            for side in (self._keys, self._values):
                side[:, request, :, : self.length] = side[:, last, :, : self.length]
            self._paddings[request] = self._paddings[last]
        self._paddings.pop()
        if last:
            self._keys, self._values = self._keys[:, :last], self._values[:, :last]
            self._hide_padding()

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
        return self.length - self._start - 1

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Tokens that attention sees, and where they begin."""
        del query_length, layer_idx
        return self.length - self._start, 0

    def _hide_padding(self) -> None:
        """Leave out what is padding of all, and mask the rest."""
        self._start = min(self._paddings)
        self._mask: Tensor | None = None
        if max(self._paddings) > self._start:
            self._mask = self._keys.new_zeros(len(self._paddings), 1, 1, self._keys.shape[3])
            for request, padding in enumerate(self._paddings):
                self._mask[request, :, :, :padding] = -torch.inf

    def _index(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, device=self._pages[0][0].device)
