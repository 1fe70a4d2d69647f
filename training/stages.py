"""What a training stage trains, and how a family's training module looks to the rest of `training`."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

import training.families
from models.config import FamilyConfig
from models.errors import ConfigError
from models.released import ReleasedFiles
from models.vision_language_model import ImageProcessor, VisionLanguageModel
from training.lora import attach_lora
from training.prompts import PromptMaker
from training.recipe import LoraRecipe, Recipe

State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The parameters a stage trains: those of `VisionLanguageModel` whose name a regex matches, and LoRA adapters.

    `looks_always`: batches of text alone look at a black picture that counts nothing, as the LLaVA line's do. The
    connector then has a gradient of zero, not none, and Adam's momentum goes on moving it. `pictures` gives the
    preprocessing of an `image_aspect_ratio` from a model's own; None where a family has one only.
    """

    learns: tuple[str, ...]
    lora: bool = False
    looks_always: bool = False
    pictures: Callable[[ImageProcessor, str], ImageProcessor] | None = None

    def trains(self, name: str) -> bool:
        """Whether a parameter of `VisionLanguageModel` learns, by its name."""
        return any(re.search(pattern, name) for pattern in self.learns) or (self.lora and ".lora_" in name)


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

    def export(self, recipe: Recipe, config: FamilyConfig, files: ReleasedFiles, state: State, folder: Path) -> Path:
        """Write the trained parameters as the family's released files; returns the eval config to load them with."""


def family_training(recipe: Recipe) -> FamilyTraining:
    """The training module of a recipe's family. Raises ConfigError for a family or stage without training."""
    known = sorted(module.name for module in pkgutil.iter_modules(training.families.__path__))
    if recipe.family not in known:
        raise ConfigError(
            f"{recipe.source}: model.family is {recipe.family!r}; there is training for {', '.join(known)}."
        )
    module = cast(FamilyTraining, importlib.import_module(f"training.families.{recipe.family}"))
    for key, value, allowed in (
        ("stage", recipe.stage, module.STAGES),
        ("text.prompt", recipe.text.prompt, module.PROMPTS),
    ):
        if value not in allowed:
            raise ConfigError(f"{recipe.source}: {key} is {value!r}; {recipe.family} has {', '.join(allowed)}.")
    return module


class StageModel(nn.Module):
    """A model with the parameters of one stage set free, as transformers' Trainer takes it.

    Trainable parameters (and those beside them in a layer) are float32, whatever the frozen ones are. Frozen modules
    stay in evaluation mode (no dropout in a frozen Q-Former); only the language model, its adapters included, and a
    tower's stochastic depth are put into training mode. `looks_always` is for sharded training, where all devices must
    run the same modules.
    """

    accepts_loss_kwargs = False  # losses are means over a device's batch, as in the originals

    def __init__(
        self, model: VisionLanguageModel, stage: Stage, lora: LoraRecipe, *, looks_always: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self._black: Tensor | None = None
        if stage.looks_always or looks_always:
            self._black = model.pixel_values([Image.new("RGB", (64, 64))])
        if stage.lora != (model.lora is not None):
            has, does = ("no LoRA", "trains it") if stage.lora else ("LoRA", "would lose it")
            raise ConfigError(
                f"The starting checkpoint has {has}, but this stage {does}; choose another one of the two."
            )
        if stage.lora:
            attach_lora(model, dropout=lora.dropout)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(stage.trains(name))
        for module in model.modules():
            own = list(module.parameters(recurse=False))
            if any(parameter.requires_grad for parameter in own):
                for parameter in own:  # a norm's frozen bias too: CPUs want it in the format of the weight
                    parameter.data = parameter.data.float()

    @property
    def config(self) -> PreTrainedConfig:
        """The language model's: DeepSpeed's bucket sizes are worked out from its width."""
        config: PreTrainedConfig = self.model.language_model.config
        return config

    @property
    def _no_split_modules(self) -> list[str]:
        """The layers that sharding treats as units, by class: what transformers' models say about themselves."""
        named = {
            name
            for module in self.model.modules()
            if isinstance(module, PreTrainedModel)
            for name in module._no_split_modules or ()
        }
        return sorted(named & {type(module).__name__ for module in self.model.modules()})

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name in `VisionLanguageModel` -> parameter; one that has several names only by its first."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def train(self, mode: bool = True) -> StageModel:
        """See the class."""
        super().train(False)
        self.training = mode
        self.model.language_model.train(mode)
        for module in self.model.vision_tower.modules():
            if type(module).__name__ == "ConvNextDropPath":
                module.train(mode)
        return self

    def forward(
        self, *, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, pixel_values: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss of a batch; see `VisionLanguageModel.forward`."""
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, labels=labels, pixel_values=pixel_values
        )
        assert output.loss is not None
        loss: Tensor = output.loss
        if pixel_values is None and self._black is not None:
            loss = loss + (self.model.image_embeds(self._black) * 0.0).sum().to(loss)
        return {"loss": loss}
