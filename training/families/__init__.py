"""What training adds to a family: what each stage trains, its prompts, where it starts, its released files.

One module for each family, found by its name; `FamilyTraining` is what such a module has.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from models.errors import ConfigError
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from training.data.prompts import PromptMaker
from training.recipe import Recipe
from training.stages.stage_model import Stage, StateDict


class FamilyTraining(Protocol):
    """A module in training/families."""

    STAGES: Mapping[str, Stage]
    PROMPTS: Mapping[str, PromptMaker]

    def starting_values(self, recipe: Recipe, folder: Path) -> dict[str, Any]:
        """The keys of an eval config to load the stage's starting point from.

        What a first stage starts with is drawn with the recipe's seed and written to `folder`, in the released format.
        """

    def released_name(self, name: str) -> str:
        """The released name of a trainable parameter of `VisionLanguageModel`, for learning rate factors."""

    def export(
        self, recipe: Recipe, config: FamilyConfig, files: ReleasedFiles, state: StateDict, folder: Path
    ) -> Path:
        """Write the trained parameters as the family's released files; returns the eval config to load them with."""


def family_training(recipe: Recipe) -> FamilyTraining:
    """The training module of a recipe's family. Raises ConfigError for a family or stage without training."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if recipe.family not in known:
        raise ConfigError(
            f"{recipe.source}: model.family is {recipe.family!r}; there is training for {', '.join(known)}."
        )
    module = cast(FamilyTraining, importlib.import_module(f"{__name__}.{recipe.family}"))
    for key, value, allowed in (
        ("stage", recipe.stage, module.STAGES),
        ("text.prompt", recipe.text.prompt, module.PROMPTS),
    ):
        if value not in allowed:
            raise ConfigError(f"{recipe.source}: {key} is {value!r}; {recipe.family} has {', '.join(allowed)}.")
    return module
