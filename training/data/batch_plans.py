"""Which examples each batch of a run holds, as a pure function of the seed and the batch's number."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np

from training.data.readers import DatasetReader

Place = tuple[int, int]  # number of the data set, index of the example in it


class BatchPlan(Protocol):
    """Which examples each batch holds."""

    def __len__(self) -> int: ...
    def places(self, number: int) -> list[Place]:
        """The examples of batch `number`."""


class RatioPlan:
    """Every batch comes from one data set, drawn in proportion to the ratios; each is gone through in random order.

    Source: MiniGPT-4, `MultiIterLoader`.
    """

    def __init__(
        self,
        readers: Sequence[DatasetReader],
        ratios: Sequence[float],
        batch_sizes: Sequence[int],
        *,
        length: int,
        seed: int,
    ) -> None:
        weights = np.array(ratios, dtype=np.float64)
        draws = np.random.default_rng([seed, 0]).choice(len(readers), size=length, p=weights / weights.sum())
        earlier = np.zeros(length, dtype=np.int64)  # how many batches before this one its data set has had
        for number in range(len(readers)):
            mine = np.flatnonzero(draws == number)
            earlier[mine] = np.arange(len(mine))
        self._draws, self._earlier = draws, earlier
        self._readers, self._batch_sizes, self._seed = list(readers), list(batch_sizes), seed
        self._order = cache(self._new_order)

    def __len__(self) -> int:
        return len(self._draws)

    def places(self, number: int) -> list[Place]:
        which = int(self._draws[number])
        size, reader = self._batch_sizes[which], self._readers[which]
        first = int(self._earlier[number]) * size
        if reader.is_stream:
            return [(which, position) for position in range(first, first + size)]
        turns = (divmod(position, len(reader)) for position in range(first, first + size))
        return [(which, int(self._order(which, epoch)[position])) for epoch, position in turns]

    def _new_order(self, which: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, 1, which, epoch]).permutation(len(self._readers[which]))


class EpochPlan:
    """All data sets as one, gone through `epochs` times; the last batch is filled up from the epoch's beginning.

    With `by_length` every batch is of one modality and of like length: within random mega-batches, one batch for each
    of the `group` that make an optimiser step, examples are sorted by length and dealt out so that the batches are of
    even weight; what is left of either modality comes last. Source: LLaVA, `LengthGroupedSampler`.
    """

    def __init__(
        self, readers: Sequence[DatasetReader], batch_size: int, *, group: int, epochs: int, seed: int, by_length: bool
    ) -> None:
        places = [(which, index) for which, reader in enumerate(readers) for index in range(len(reader))]
        lengths = None
        if by_length:
            signs = [1 if readers[which].has_image(index) else -1 for which, index in places]
            words = [readers[which].num_words(index) for which, index in places]
            lengths = np.array(signs) * np.maximum(words, 1)
        self._places: list[list[Place]] = []
        for epoch in range(epochs):
            rng = np.random.default_rng([seed, 2, epoch])
            order = rng.permutation(len(places)) if lengths is None else _by_length(lengths, batch_size, group, rng)
            wanted = -(-len(order) // (batch_size * group)) * batch_size * group
            order = np.resize(order, wanted)
            batches = order.reshape(-1, batch_size)
            self._places += [[places[index] for index in batch] for batch in batches]

    def __len__(self) -> int:
        return len(self._places)

    def places(self, number: int) -> list[Place]:
        return self._places[number]


def _by_length(lengths: np.ndarray, batch_size: int, group: int, rng: np.random.Generator) -> np.ndarray:
    """An order of all examples; see `EpochPlan`. Lengths below zero are text alone."""
    mega_batches: list[np.ndarray] = []
    left: list[np.ndarray] = []
    for kind in (lengths > 0, lengths < 0):
        order = rng.permutation(np.flatnonzero(kind))
        full = len(order) // (batch_size * group) * batch_size * group
        mega_batches += [_dealt(part, lengths, group) for part in order[:full].reshape(-1, batch_size * group)]
        left.append(order[full:])
    mixed = [mega_batches[index] for index in rng.permutation(len(mega_batches))]
    return np.concatenate([*mixed, *left])


def _dealt(indices: np.ndarray, lengths: np.ndarray, group: int) -> np.ndarray:
    """Longest first, each to the lightest batch that is not full, the batches one after the other."""
    size = len(indices) // group
    batches: list[list[int]] = [[] for _ in range(group)]
    weights = [0] * group
    for index in sorted(indices.tolist(), key=lambda i: -abs(int(lengths[i]))):
        lightest = min((b for b in range(group) if len(batches[b]) < size), key=weights.__getitem__)
        batches[lightest].append(index)
        weights[lightest] += abs(int(lengths[index]))
    return np.array([index for batch in batches for index in batch])
