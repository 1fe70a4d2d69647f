"""A family that nobody released: one CLIP, two linear layers and a Llama in one folder. More is not needed.

Tests put this file where families are found, and the YAML beside it where configurations are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from models.family_config import FamilyConfig, released_file
from models.files.released import ReleasedFiles
from models.parts.llava_vision import MlpProjector, PatchTower, tower_part
from models.preprocessing import CropAndResize
from models.prompt import PromptFormat
from models.tasks import Task
from models.tensors.weights import Part, Rename, rename, take_prefix
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from models.vision_language_model import VisionLanguageModel

FORMAT = PromptFormat(user_prefix="Question: ", user_suffix="\n", assistant_prefix="Answer:", assistant_suffix="</s>")
TASKS = (Task(label="Count things", identifier="[count]", prompt="[count] ", hint="Type what shall be counted."),)
_CONNECTOR_RULES = (Rename(r"^first\.", "projection.0."), Rename(r"^second\.", "projection.2."))


@dataclass(frozen=True, kw_only=True)
class Config(FamilyConfig):
    """Keys of its YAML."""

    checkpoint: str = released_file("The test writes it.")


def parts(_config: Config, files: ReleasedFiles) -> dict[str, Part]:
    """Tower, connector and language model from the one folder."""
    tensors, source = files.tensors("checkpoint"), files.source("checkpoint")
    values = files.config_values("checkpoint")
    tower = tower_part(
        take_prefix(tensors, "eye."), is_siglip=False, layer=-2, values=values["vision_config"], source=source
    )
    llm = LlamaConfig(**values["text_config"])
    connector = Part(
        name="connector",
        source=source,
        module_class=MlpProjector,
        config={"vision_width": tower.config.hidden_size, "text_width": llm.hidden_size},
        tensors=rename(take_prefix(tensors, "bridge."), _CONNECTOR_RULES),
    )
    language_model = Part(
        name="language model", source=source, module_class=LlamaForCausalLM, config=llm, tensors=tensors
    )
    return {"vision_tower": tower, "connector": connector, "language_model": language_model}


def tokenizer(files: ReleasedFiles) -> SentencePieceTokenizer:
    """The language model's tokenizer."""
    return SentencePieceTokenizer(files.path("checkpoint") / "tokenizer.model")


def assemble(
    config: Config, _files: ReleasedFiles, modules: Mapping[str, nn.Module], tokenizer: SentencePieceTokenizer
) -> VisionLanguageModel:
    """Put the loaded modules together."""
    clip, llm = modules["vision_tower"], modules["language_model"]
    assert isinstance(clip, CLIPVisionModel)
    assert isinstance(llm, LlamaForCausalLM)
    tower = PatchTower(clip, drops_first=True)
    return VisionLanguageModel(
        vision_tower=tower,
        vision_features=tower.features,
        connector=modules["connector"],
        language_model=llm,
        tokenizer=tokenizer,
        image_processor=CropAndResize(int(clip.config.image_size)),  # type: ignore[arg-type]  # one number here
        prompt_format=FORMAT,
        num_image_tokens=tower.num_tokens,
        info=config.model_info(tasks=TASKS, trained_context=128),
    )
