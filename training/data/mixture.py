"""Several data sets -> the batches of a run. Batch number n is a pure function of the recipe, the seed and n.

So a run that was killed goes on with exactly the batches it would have had, data workers and GPUs in any number.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from models.errors import MiniVLMError
from training.data.annotations import DataError
from training.data.formats import FORMATS
from training.data.readers import DatasetPaths, Example, MissingImage, Reader
from training.recipe import DatasetRecipe, Recipe
from training.sequences import Batch

_log = logging.getLogger(__name__)
_SHOWN_MISSING = 5  # missing pictures named in the log; the rest is only counted

Place = tuple[int, int]  # number of the data set, index of the example in it
BatchMaker = Callable[[Sequence[Example], Random], Batch]


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
        self, readers: Sequence[Reader], ratios: Sequence[float], batch_sizes: Sequence[int], *, length: int, seed: int
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
        self, readers: Sequence[Reader], batch_size: int, *, group: int, epochs: int, seed: int, by_length: bool
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


class TooManyMissing(MiniVLMError):
    """More pictures are missing than the recipe allows."""


class MixtureDataset(Dataset[dict[str, Tensor]]):
    """Item n is the whole batch n of a plan, as the keyword arguments of `VisionLanguageModel.forward`, on the CPU.

    A missing picture is counted, over all workers of this process, and another example of the same data set takes its
    place. Raises TooManyMissing beyond `max_missing`, DataError for wrong annotations.
    """

    def __init__(
        self, readers: Sequence[Reader], plan: BatchPlan, maker: BatchMaker, *, seed: int, max_missing: int
    ) -> None:
        self._readers, self._plan, self._maker = list(readers), plan, maker
        self._seed, self._max_missing = seed, max_missing
        self._missing = multiprocessing.Value("i", 0)

    def __len__(self) -> int:
        return len(self._plan)

    @property
    def num_missing(self) -> int:
        """Pictures that were not to be had so far."""
        return int(self._missing.value)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        batch = self._maker(self.examples(number), Random(f"{self._seed}-{number}"))
        return {name: value for name, value in vars(batch).items() if value is not None}

    def examples(self, number: int) -> list[Example]:
        """The examples of batch `number`."""
        return [
            self._example(place, f"{self._seed}-{number}-{row}") for row, place in enumerate(self._plan.places(number))
        ]

    def _example(self, place: Place, seed: str) -> Example:
        which, index = place
        reader = self._readers[which]
        rng = Random(seed)
        while True:
            try:
                return reader.example(index, rng)
            except MissingImage as error:
                self._count_missing(str(error))
                index = rng.randrange(len(reader))

    def _count_missing(self, message: str) -> None:
        with self._missing.get_lock():
            self._missing.value += 1
            count = self._missing.value
        if count <= _SHOWN_MISSING:
            _log.warning("skipped a picture: %s", message)
        if count > self._max_missing:
            raise TooManyMissing(
                f"{count} pictures could not be read (the last: {message}); `python -m training.prepare` lists them. "
                "Complete the data or raise data.max_missing_images."
            )


def open_readers(recipe: Recipe, datasets: Sequence[DatasetRecipe]) -> list[Reader]:
    """A reader for every data set of a recipe. Raises DataError, also for one without a single usable example."""
    folder = Path(recipe.data.folder)
    readers = []
    for dataset in datasets:
        paths = DatasetPaths(annotations=str(folder / dataset.annotations), images=folder / dataset.images)
        reader = FORMATS[dataset.format](paths)
        if not len(reader):
            raise DataError(f"{paths.annotations}: no example can be used; are the pictures in {paths.images}?")
        if reader.num_left_out:
            _log.warning("%s: left out %d that are not in the data folder", dataset.format, reader.num_left_out)
        readers.append(reader)
    return readers


def training_batches(recipe: Recipe, maker: BatchMaker, *, world_size: int) -> MixtureDataset:
    """All batches of a run on `world_size` devices: device r of a step takes batch step * world_size + r."""
    readers = open_readers(recipe, recipe.data.datasets)
    group = world_size * recipe.gradient_accumulation
    plan: BatchPlan
    if recipe.data.mixing == "ratio":
        plan = RatioPlan(
            readers,
            [dataset.ratio for dataset in recipe.data.datasets],
            [recipe.batch_size_of(dataset) for dataset in recipe.data.datasets],
            length=recipe.schedule.epochs * recipe.schedule.steps_per_epoch * group,
            seed=recipe.seed,
        )
    else:
        sizes = {recipe.batch_size_of(dataset) for dataset in recipe.data.datasets}
        if len(sizes) > 1:
            raise DataError(f"{recipe.source}: with data.mixing {recipe.data.mixing} all batch sizes must be the same.")
        plan = EpochPlan(
            readers,
            sizes.pop(),
            group=group,
            epochs=recipe.schedule.epochs,
            seed=recipe.seed,
            by_length=recipe.data.mixing == "by_length",
        )
    return MixtureDataset(readers, plan, maker, seed=recipe.seed, max_missing=recipe.data.max_missing_images)


def evaluation_batches(recipe: Recipe, maker: BatchMaker) -> MixtureDataset | None:
    """The first batches of the held-out data, or None if a recipe names none."""
    datasets = recipe.evaluation.datasets
    if not datasets:
        return None
    readers = open_readers(recipe, datasets)
    plan = RatioPlan(
        readers,
        [dataset.ratio for dataset in datasets],
        [recipe.batch_size_of(dataset) for dataset in datasets],
        length=recipe.evaluation.num_batches,
        seed=recipe.seed,
    )
    return MixtureDataset(readers, plan, maker, seed=recipe.seed, max_missing=recipe.data.max_missing_images)
