"""Several data sets -> the batches of a run. Batch number n is a pure function of the recipe, the seed and n.

So a run that was killed goes on with exactly the batches it would have had, data workers and GPUs in any number.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from models.errors import MiniVLMError
from models.vision_language_model import IGNORED_LABEL
from training.data.annotations import DataError
from training.data.batch_plans import BatchPlan, EpochPlan, Place, RatioPlan
from training.data.formats import FORMATS
from training.data.minigpt_sequences import Batch
from training.data.readers import DatasetPaths, DatasetReader, MissingImage, TrainingExample
from training.recipe import DatasetRecipe, Recipe

_log = logging.getLogger(__name__)
_SHOWN = 5  # unusable examples named in the log; the rest is only counted

BatchMaker = Callable[[Sequence[TrainingExample], Random], Batch]


class TooManyUnusable(MiniVLMError):
    """More examples lack their picture, or anything to learn, than the recipe allows."""


class Tally:
    """Which examples of each data set can't be used, over all data workers; each counts once however often it is drawn.

    A run may leave out `max_missing` examples, and of no data set more than `max_share` (0…1). A data set of which no
    example can be used is refused whatever is allowed.
    """

    def __init__(self, readers: Sequence[DatasetReader], *, max_missing: int, max_share: float) -> None:
        self._readers, self._max_missing, self._max_share = list(readers), max_missing, max_share
        self._lock = multiprocessing.Lock()
        self._is_unusable = [multiprocessing.RawArray("b", len(reader)) for reader in readers]
        self._counts = multiprocessing.RawArray("q", len(readers))

    @property
    def num_unusable(self) -> int:
        """Examples that could not be used so far."""
        return sum(self._counts)

    def add(self, place: Place, message: str) -> None:
        """Count an example that is left out. Raises TooManyUnusable."""
        which, index = place
        reader, flags = self._readers[which], self._is_unusable[which]
        index %= len(flags)  # a stream runs on beyond its length
        with self._lock:
            is_new = not flags[index]
            flags[index] = True
            self._counts[which] += is_new
            unusable, total = self._counts[which], self.num_unusable
        if is_new and total <= _SHOWN:
            _log.warning("left out an example: %s", message)
        self._check(reader, unusable, total, f"(the last: {message})")

    def _check(self, reader: DatasetReader, unusable: int, total: int, last: str) -> None:
        name, lists = reader.paths.annotations, "`python -m training.prepare` lists missing pictures"
        if unusable == len(reader):
            raise TooManyUnusable(f"{name}: not one example can be used {last}; {lists}.")
        if total > self._max_missing:
            raise TooManyUnusable(
                f"{total} examples could not be used {last}; {lists}. Complete the data or raise "
                "data.max_missing_images."
            )
        if unusable > self._max_share * len(reader):
            raise TooManyUnusable(
                f"{name}: {unusable} of {len(reader)} examples could not be used {last}; {lists}. Complete the data or "
                "raise data.max_missing_share."
            )


class MixtureDataset(Dataset[dict[str, Tensor]]):
    """Item n is the whole batch n of a plan, as the keyword arguments of `VisionLanguageModel.forward`, on the CPU.

    An example whose picture is missing, or of whose answer no token is left to learn, is counted and another one of the
    same data set takes its place: every row of every batch has labels. Raises TooManyUnusable beyond the limits of
    `Tally`, DataError for wrong annotations.
    """

    def __init__(
        self,
        readers: Sequence[DatasetReader],
        plan: BatchPlan,
        maker: BatchMaker,
        *,
        seed: int,
        max_missing: int,
        max_share: float = 1.0,
    ) -> None:
        self._readers, self._plan, self._maker, self._seed = list(readers), plan, maker, seed
        self.tally = Tally(readers, max_missing=max_missing, max_share=max_share)

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        places = self._plan.places(number)
        drawn = [self._draw(place, Random(f"{self._seed}-{number}-{row}")) for row, place in enumerate(places)]
        again = Random(f"{self._seed}-{number}-again")
        while True:
            batch = self._maker([example for _, example in drawn], Random(f"{self._seed}-{number}"))
            without = rows_without_labels(batch.labels)
            if not without:
                return {name: value for name, value in vars(batch).items() if value is not None}
            for row in without:
                place, _ = drawn[row]
                reader = self._readers[place[0]]
                where = f"{reader.paths.annotations}, example {place[1]}"
                self.tally.add(place, f"{where}: nothing of its answer lies within text.max_tokens")
                drawn[row] = self._draw((place[0], again.randrange(len(reader))), again)

    def examples(self, number: int) -> list[TrainingExample]:
        """The examples of batch `number`, also those without anything to learn."""
        places = enumerate(self._plan.places(number))
        return [self._draw(place, Random(f"{self._seed}-{number}-{row}"))[1] for row, place in places]

    def _draw(self, place: Place, rng: Random) -> tuple[Place, TrainingExample]:
        """An example with its picture: that at `place`, or another one of its data set."""
        which, index = place
        reader = self._readers[which]
        while True:
            try:
                return (which, index), reader.example(index, rng)
            except MissingImage as error:
                self.tally.add((which, index), str(error))
                index = rng.randrange(len(reader))


def rows_without_labels(labels: Tensor) -> list[int]:
    """The rows of labels [B, L] in which no token is predicted; the first token never is."""
    found: list[int] = (labels[:, 1:] == IGNORED_LABEL).all(dim=1).nonzero().flatten().tolist()
    return found


def open_readers(recipe: Recipe, datasets: Sequence[DatasetRecipe]) -> list[DatasetReader]:
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
    return MixtureDataset(readers, plan, maker, seed=recipe.seed, **_limits(recipe))


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
    return MixtureDataset(readers, plan, maker, seed=recipe.seed, **_limits(recipe))


def _limits(recipe: Recipe) -> dict[str, Any]:
    return {"max_missing": recipe.data.max_missing_images, "max_share": recipe.data.max_missing_share}
