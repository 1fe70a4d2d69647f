"""The tiny models' world as a data set: drawn scenes with questions, made when they are asked for."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np

from training.data.annotations import DataError
from training.data.readers import DatasetPaths, DatasetReader, TrainingExample, make_example
from training.scenes.render import render_image
from training.scenes.samples import Sample
from training.scenes.scene import sample_scene
from training.scenes.task_mixtures import TaskMixture

_MOST_TURNS = 4


class SceneReader(DatasetReader):
    """Scene k of a seed is the same for ever; what is asked about it is drawn anew whenever it comes.

    `annotations` is SEED/COUNT, for example `0/10000`; held-out scenes are those of another seed. There are no files.
    """

    def __init__(self, paths: DatasetPaths, *, mixture: TaskMixture) -> None:
        super().__init__(paths)
        self.mixture = mixture
        given = Path(paths.annotations).parts[-2:]
        if len(given) != 2 or not all(part.isdecimal() for part in given) or not int(given[1]):
            raise DataError(f"{'/'.join(given)}: `annotations` of scenes must be SEED/COUNT, for example 0/10000.")
        self.seed, self.count = map(int, given)

    def __len__(self) -> int:
        return self.count

    def image_path(self, index: int) -> None:
        """There is none: pictures are drawn."""

    def check(self, index: int) -> None:
        """There are no fields."""

    def has_image(self, index: int) -> bool:  # noqa: ARG002
        return True

    def example(self, index: int, rng: Random) -> TrainingExample:
        scene = sample_scene(np.random.default_rng([self.seed, index]))
        draw = np.random.default_rng(rng.getrandbits(64))
        samples: list[Sample] = [self.mixture.sample(draw, scene)]
        while draw.random() < self.mixture.chained and len(samples) < _MOST_TURNS:
            samples.append(self.mixture.sample(draw, scene))
        questions, answers = ([getattr(sample, side) for sample in samples] for side in ("prompt", "answer"))
        return make_example(questions, answers, (render_image(scene),))
