"""What a training stage trains: its free parameters, and the model that transformers' Trainer is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from models.errors import ConfigError
from models.memory.spreading import is_spread
from models.vision_language_model import ImageProcessor, VisionLanguageModel
from training.recipe import LoraRecipe
from training.stages.lora import attach_lora

StateDict = Mapping[str, Tensor]


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


def llava_stages(pictures: Callable[[ImageProcessor, str], ImageProcessor]) -> dict[str, Stage]:
    """The stages that all families of the LLaVA line have, by name; `pictures` as in `Stage`."""
    connector, language_model = r"^connector\.", r"^language_model\."
    return {
        "1": Stage(learns=(connector,), looks_always=True, pictures=pictures),
        "2": Stage(learns=(connector, language_model), looks_always=True, pictures=pictures),
        "2-lora": Stage(learns=(connector,), lora=True, looks_always=True, pictures=pictures),
    }


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
        if is_spread(model.language_model):
            self.hf_device_map = model.language_model.hf_device_map  # keeps Trainer from moving the model to one GPU
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
