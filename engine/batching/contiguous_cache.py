"""A contiguous KV cache for the requests of a batch, beside the paged one.

B requests, L tokens of the longest so far, C room for tokens, K key and value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cache_allocators.full_attention import FullAttentionCacheAllocator

from engine.batching.cpu_attention import quick
from engine.batching.device_copies import to_device
from engine.batching.paged_cache import token_rows

ROOM = 256  # new tokens for which it has room beyond the longest request, if there is memory


class ContiguousCache:
    """Keys and values [B, K, L, D] in each layer, with the methods that transformers' attention calls on a cache.

    Requests are padded on the left, which `mask` hides, so that their next tokens lie in one column. New tokens are
    written in place; transformers' own DynamicCache copies everything at each token. The memory is allocated once, for
    `max_tokens` of all requests together (a CPU provides it when it is first written to), on each device that layers
    are on: one tensor of keys and one of values there.
    """

    def __init__(self, allocator: FullAttentionCacheAllocator, *, max_tokens: int) -> None:
        views = token_rows(allocator)
        self._pages = [views[layer] for layer in allocator.layer_indices]
        self._heads, self._head_dim = allocator.num_key_value_heads, allocator.head_dim
        self._max_tokens = max_tokens
        of_device = groupby(self._pages, key=lambda pages: pages[0].device)
        self._stacks = [_Stack(list(pages), max_tokens, self._heads, self._head_dim) for _, pages in of_device]
        self._paddings: list[int] = []
        self.length = 0

    def room_for(self, lengths: Sequence[int]) -> int:
        """The capacity C for requests of these lengths; less than their longest if memory is short."""
        return min(max(lengths) + ROOM, self._max_tokens // len(lengths))

    def load(self, rows: Sequence[Sequence[int]]) -> None:
        """Copy keys and values from the pages: for each request the rows of its tokens, at least one."""
        lengths = [len(own) for own in rows]
        self.length = max(lengths)
        self._paddings = [self.length - length for length in lengths]
        self._capacity = self.room_for(lengths)
        # Padding repeats a request's first token: uninitialised memory may hold NaN, which a mask does not hide.
        padded = [row for own in rows for row in (*([own[0]] * (self.length - len(own))), *own)]
        for stack in self._stacks:
            stack.load(padded, requests=len(rows), length=self.length, capacity=self._capacity)
        self._hide_padding()

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another token."""
        return self.length == self._capacity

    @property
    def memory(self) -> tuple[Tensor, Tensor]:
        """Keys and values [layers, B, K, C, D] of layers that are all on one device."""
        (stack,) = self._stacks
        return stack.sides

    @property
    def paddings(self) -> Sequence[int]:
        """Of each request, the tokens before its first."""
        return self._paddings

    def begin_native_token(self) -> int:
        """The number of tokens with one more of each request, which whoever writes to `memory` puts there."""
        self.length += 1
        return self.length

    def begin_token(self) -> None:
        """Make room for one more token of each request in all layers."""
        self._new_keys, self._new_values = self._columns(self.length, 1)
        self.length += 1
        self._all_keys, self._all_values = self._columns(self._start, self.length - self._start)

    @property
    def mask(self) -> Tensor | None:
        """[B, 1, 1, L], zero for tokens and -inf for padding; None where there is none."""
        return None if self._mask is None else self._mask.narrow(3, self._start, self.length - self._start)

    def drop(self, request: int) -> None:
        """Remove a request; the last one moves to its index."""
        last = len(self._paddings) - 1
        if request < last:
            self._paddings[request] = self._paddings[last]
        self._paddings.pop()
        for stack in self._stacks:
            stack.drop(request, length=self.length)
        if last:
            self._hide_padding()

    def store(self, request: int, rows: Sequence[int]) -> bool:
        """Copy the keys and values of a request's newest tokens to these rows of the pages.

        False if there is NaN or infinity among them, which becomes 0 in the pages (see broken_tokens.py).
        """
        are_finite = [stack.store(request, rows, end=self.length) for stack in self._stacks]
        return all(map(bool, are_finite))

    # What transformers' attention and masks call ----------------------------------------------------------------------

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Keys and values [B, K, 1, D] of a token each -> those of all tokens [B, K, L, D]."""
        self._new_keys[layer].copy_(keys)
        self._new_values[layer].copy_(values)
        return quick(self._all_keys[layer]), self._all_values[layer]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens before the one that is computed."""
        del layer_idx
        return self.length - self._start - 1

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Number of keys that attention gets, and their offset."""
        del query_length, layer_idx
        return self.length - self._start, 0

    def _hide_padding(self) -> None:
        """Leave out the columns that are padding in all requests, and mask the rest of the padding."""
        self._start = min(self._paddings)
        self._mask: Tensor | None = None
        if max(self._paddings) > self._start:
            self._mask = self._pages[0][0].new_zeros(len(self._paddings), 1, 1, self._capacity)
            for request, padding in enumerate(self._paddings):
                self._mask[request, :, :, :padding] = -torch.inf

    def _columns(self, start: int, count: int) -> tuple[list[Tensor], list[Tensor]]:
        """By layer, the keys and the values [B, K, count, D] of these tokens."""
        keys = [layer for stack in self._stacks for layer in stack.columns(0, start, count)]
        return keys, [layer for stack in self._stacks for layer in stack.columns(1, start, count)]


class _Stack:
    """Keys and values of the layers of one device, each [layers, B, K, C, D]; `pages` are those they come from."""

    def __init__(self, pages: Sequence[tuple[Tensor, Tensor]], max_tokens: int, heads: int, head_dim: int) -> None:
        self._pages, self._heads, self._head_dim = pages, heads, head_dim
        self._device = pages[0][0].device
        size = len(pages) * max_tokens * heads * head_dim
        self._memory = [side.new_empty(size) for side in pages[0]]
        self._sides: list[Tensor] = []

    def load(self, rows: Sequence[int], *, requests: int, length: int, capacity: int) -> None:
        """Copy these rows of the pages, `length` for each request."""
        shape = (len(self._pages), requests, self._heads, capacity, self._head_dim)
        self._sides = [memory[: torch.Size(shape).numel()].view(shape) for memory in self._memory]
        index = to_device(rows, self._device)
        for number, side in enumerate(self._sides):
            for layer, pages in enumerate(self._pages):
                found = pages[number].index_select(0, index).view(requests, -1, self._heads, self._head_dim)
                side[layer, :, :, :length] = found.transpose(1, 2)

    @property
    def sides(self) -> tuple[Tensor, Tensor]:
        """Keys and values, [layers, B, K, C, D] each."""
        keys, values = self._sides
        return keys, values

    def columns(self, side: int, start: int, count: int) -> tuple[Tensor, ...]:
        """By layer, the keys (side 0) or values (1) of tokens that follow each other."""
        return self._sides[side].narrow(3, start, count).unbind()

    def drop(self, request: int, *, length: int) -> None:
        """Remove a request; the last one moves to its index."""
        last = self._sides[0].shape[1] - 1
        for number, side in enumerate(self._sides):
            if request < last:
                side[:, request, :, :length] = side[:, last, :, :length]
            if last:
                self._sides[number] = side[:, :last]

    def store(self, request: int, rows: Sequence[int], *, end: int) -> Tensor:
        """Copy the newest tokens, before `end`, to these rows of the pages. [] bool: whether all are finite."""
        index = to_device(rows, self._device)
        new = [side[:, request, :, end - len(rows) : end] for side in self._sides]
        for number, side in enumerate(new):
            for layer, pages in enumerate(self._pages):
                pages[number].index_copy_(0, index, side[layer].nan_to_num(0, 0, 0).transpose(0, 1).flatten(1))
        return torch.stack([side.isfinite().all() for side in new]).all()
