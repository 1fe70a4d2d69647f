"""MoE-LLaVA (arXiv:2401.15947): CLIP-L/14-336 or SigLIP-so400m/14-384 -> two linear layers -> an LLM with experts.

Released by PKU-YuanGroup/MoE-LLaVA as whole folders over StableLM-2, Qwen-1, Phi-2 and OpenChat (Mistral); every second
layer has four experts, of which each token uses two. 576 image tokens (CLIP) or 728 (SigLIP). Its dense models of stage
2, and stage 1's projectors over their base language models, load as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from transformers import CLIPVisionModel, SiglipVisionModel

from models.conversation import Sampling
from models.errors import CheckpointMismatch, ConfigError
from models.family_config import FamilyConfig, released_file
from models.files.adapters import ADAPTER_HINT
from models.files.released import ReleasedFiles
from models.formats.llava import FORMATS, LLAVA_TASKS
from models.parts.llava_vision import MlpProjector, PatchTower, tower_part
from models.parts.sparse_decoders import SparseDecoder, VocabularyHead
from models.parts.sparse_language_model import backbone_of, sparse_language_model_part
from models.parts.sparse_moe import SparseLayers, sparse_layers_of
from models.parts.trained_values import LLAVA_AS_RELEASED, check_as_released
from models.preprocessing import CropAndResize, PadAndResize, SquareResize
from models.prompt import PromptFormat
from models.quantized.eight_bits import EightBitLinear
from models.tensors.module_config import as_config_error
from models.tensors.origins import Origin, origin_of
from models.tensors.weights import Part, Rename, Tensors, first_names, rename, renamed_from, take_prefix
from models.tokenizers.codegen import CodeGenTokenizer
from models.tokenizers.pieces import PieceTokenizer, usable
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from models.tokenizers.tiktoken import TiktokenTokenizer, find_tiktoken_file
from models.vision_language_model import ImageProcessor, Tokenizer, VisionLanguageModel

SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)
# What ends an answer, by the conversation's name; all else of the prompt is Vicuna's.
END_PIECES = {
    "phi": "<|endoftext|>",
    "stablelm": "<|endoftext|>",
    "qwen": "<|endoftext|>",
    "openchat": "<|end_of_turn|>",
    "mistral": "</s>",
}
AS_RELEASED = {
    **LLAVA_AS_RELEASED,
    "mm_vision_select_feature": ("patch", "cls_patch"),
    "rotary_pct": (1.0,),  # of Qwen-1
}
_CONNECTOR_RULES = (Rename(r"^mm_projector\.image_spatial_proj\.", "projection."),)


@dataclass(frozen=True, kw_only=True)
class Config(FamilyConfig):
    """Keys of a MoE-LLaVA YAML. Sizes come from the folder's config.json.

    `vision_tower` is a folder of CLIP or SigLIP; without it one that lies near the model is used, else the copy that
    the model's own weights hold. `projector` is a stage-1 file (or its folder) over a base language model.
    `vision_config` overrides fields of transformers' `CLIPVisionConfig` or `SiglipVisionConfig`.
    `samples_second_expert` draws each token's second expert, as the original does even at temperature 0.
    """

    language_model: str = released_file("The released models are at https://huggingface.co/LanguageBind.")
    projector: str | None = released_file(
        "Stage-1 projectors are at https://huggingface.co/LanguageBind, named MoE-LLaVA-…-Pretrain.", default=None
    )
    adapter: str | None = released_file(ADAPTER_HINT, default=None)
    vision_tower: str | None = released_file(
        "https://huggingface.co/openai/clip-vit-large-patch14-336 or, for the -384 models, "
        "https://huggingface.co/google/siglip-so400m-patch14-384.",
        default=None,
    )
    conversation: str | None = None
    vision_config: dict[str, Any] = field(default_factory=dict)
    samples_second_expert: bool = False
    sampling: Sampling = field(
        default_factory=lambda: Sampling(temperature=0.2, top_p=1.0, max_new_tokens=512, repetition_penalty=1.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conversation is not None:
            self.check_choice("conversation", END_PIECES)


def parts(config: Config, files: ReleasedFiles) -> dict[str, Part]:
    """Tower, projector and language model, from the model's folder (or from the keys that name others)."""
    source = files.source("language_model")
    values = files.config_values("language_model")
    files.trained_context()  # refused here, before any weights are read
    described = str(files.config_folder("language_model"))
    check_as_released(values, AS_RELEASED, source=described)
    tensors = files.tensors("language_model")
    visual = take_visual(tensors)
    vision_tensors = take_prefix(visual, "image_tower.image_tower.")
    if config.projector is not None:
        if visual:
            raise CheckpointMismatch(f"{source} has a projector of its own; leave the key projector out.")
        visual = take_visual(files.tensors("projector"))
    with as_config_error(f"{described}/config.json"):
        layers = layers_of(config, values, source=described)
        llm = sparse_language_model_part(tensors, values, layers, source=source, lora=files.lora())
        tower = _tower(config, files, vision_tensors)
    if not visual:
        raise CheckpointMismatch(
            f"{source} has no projector (mm_projector.*; {first_names(files.tensors('language_model'))}), so it is a "
            "language model alone; name MoE-LLaVA's folder, or add the key projector."
        )
    projector_source = source if config.projector is None else files.source("projector")
    some = min(origin_of(tensor, Origin("", f"model.{name}")).name for name, tensor in visual.items())
    connector = Part(
        name="projector",
        source=projector_source,
        module_class=MlpProjector,
        config={"vision_width": tower.config.hidden_size, "text_width": llm.config.hidden_size},
        tensors=rename(visual, _CONNECTOR_RULES),
        hint="Do the vision tower, the projector and the language model belong together?",
        released=lambda name: Origin(
            projector_source, f"{some.partition('.')[0]}.{renamed_from(name, _CONNECTOR_RULES)}"
        ),
    )
    return {"vision_tower": tower, "connector": connector, "language_model": llm}


def take_visual(tensors: Tensors) -> Tensors:
    """Remove and return what is not the language model's, without the name of the model it hangs on."""
    names = [name for name in tensors if name.split(".")[1:2] in (["image_tower"], ["mm_projector"])]
    return {name.partition(".")[2]: tensors.pop(name) for name in names}


def layers_of(config: Config, values: Mapping[str, Any], *, source: str) -> SparseLayers:
    """Which layers have experts, as config.json says. Raises CheckpointMismatch for routing that no release has."""
    moe = values.get("moe") or {}
    if moe.get("top_k_experts", 2) != 2:
        raise CheckpointMismatch(
            f"{source}: its config.json has top_k_experts {moe['top_k_experts']}; only 2 is supported, which all "
            "released models have."
        )
    is_stacked = not config.is_quantized  # bitsandbytes shrinks linear layers only
    layers = sparse_layers_of(moe, samples_second=config.samples_second_expert, is_stacked=is_stacked)
    if len(layers.num_experts) != len(layers.indices):
        raise CheckpointMismatch(f"{source}: its config.json lists other numbers of experts than of MoE layers.")
    if max(layers.indices, default=0) >= values["num_hidden_layers"]:
        raise CheckpointMismatch(
            f"{source}: its config.json has experts in layer {max(layers.indices)}, but there are "
            f"{values['num_hidden_layers']} layers."
        )
    return layers


def _tower(config: Config, files: ReleasedFiles, carried: Tensors) -> Part:
    """CLIP or SigLIP, whichever the tensors are: the tower's own folder, else the copy in the model's weights."""
    values = files.config_values("language_model")
    named = files.tower_folder("vision_tower", values.get("mm_image_tower"))
    tensors, source, note = carried, files.source("language_model"), ""
    sizes: dict[str, Any] = {}
    if named is not None:
        if (named / "config.json").is_file():
            released = files.read_config(named)
            sizes = released.get("vision_config", released)
        if not carried or files.has_weights(named):
            tensors, source = files.read(named), str(named)
        if carried:
            copy = "the copy in the model's own files"
            used, other = (copy, named) if tensors is carried else (named, copy)
            note = f"Vision tower: {used} is used, not {other}."
    if not tensors:
        found = first_names(files.tensors("language_model"))
        raise ConfigError(
            f"{config.source}: there is no vision tower: {source} has none ({found}), and the key vision_tower names "
            "no other. Set that key to the tower's folder, or download the files again."
        )
    part = tower_part(
        tensors,
        is_siglip=not any(re.search(r"class_embedding$|pre_layrnorm\.", name) for name in tensors),
        layer=values.get("mm_vision_select_layer", -2),
        values=sizes,
        overrides=config.vision_config,
        source=source,
        where=f"{named}/config.json" if sizes and not config.vision_config else f"{config.source}: vision_config",
    )
    return replace(part, note=note)


def tokenizer(files: ReleasedFiles) -> Tokenizer:
    """The language model's tokenizer; each of the four has its own kind."""
    folder = files.path("language_model")
    backbone = backbone_of(files.config_values("language_model"), source=files.source("language_model"))
    if (file := find_tiktoken_file(folder)) is not None:
        return TiktokenTokenizer(file)
    if backbone == "phi":
        return CodeGenTokenizer(folder)
    values = files.read_json(folder / "tokenizer_config.json")
    if backbone == "mistral" and values.get("legacy", True):  # pieces begin anew after a special token
        with usable(folder):
            added = {entry["content"]: int(n) for n, entry in values.get("added_tokens_decoder", {}).items()}
            added |= files.read_json(folder / "added_tokens.json")
            eos = values.get("eos_token", "</s>")
            eos = eos["content"] if isinstance(eos, dict) else eos
            return SentencePieceTokenizer(folder / "tokenizer.model", added_tokens=added, eos_token=eos)
    return PieceTokenizer(folder)


def assemble(
    config: Config, files: ReleasedFiles, modules: Mapping[str, nn.Module], tokenizer: Tokenizer
) -> VisionLanguageModel:
    """Put the loaded modules together."""
    inner, llm = modules["vision_tower"], modules["language_model"]
    assert isinstance(inner, CLIPVisionModel | SiglipVisionModel)
    assert isinstance(llm, SparseDecoder)
    values = files.config_values("language_model")
    tower = PatchTower(inner, drops_first=values.get("mm_vision_select_feature", "patch") == "patch")
    backbone = backbone_of(values, source=files.source("language_model"))
    is_openchat = backbone == "mistral" and "<|end_of_turn|>" in tokenizer.special_tokens
    conversation = config.conversation or ("openchat" if is_openchat else backbone)
    head = llm.get_output_embeddings()
    assert isinstance(head, VocabularyHead | EightBitLinear)
    head.limit(len(tokenizer))
    default_ratio = "pad" if config.projector is None else "square"  # stage 1 trains without padding
    return VisionLanguageModel(
        vision_tower=tower,
        vision_features=tower.features,
        connector=modules["connector"],
        language_model=llm,
        tokenizer=tokenizer,
        image_processor=image_processor_of(tower, values.get("image_aspect_ratio", default_ratio)),
        prompt_format=prompt_format(conversation),
        num_image_tokens=tower.num_tokens,
        info=config.model_info(
            default_name="MoE-LLaVA",
            tasks=LLAVA_TASKS,
            trained_context=files.trained_context(),
            has_experts=bool(llm.sparse_layers),
            answers_alone=SparseLayers(**llm.config.sparse_layers).drops_tokens,
        ),
        eos_token_ids=(tokenizer.eos_token_id,),  # Qwen's config.json has none, and the reference takes this one
        penalised_ids=(),
    )


def prompt_format(conversation: str) -> PromptFormat:
    """Vicuna's prompt with another end of the answer; images are not numbered, unlike Mini-Gemini's."""
    vicuna, end = FORMATS["vicuna_v1"], END_PIECES[conversation]
    return replace(vicuna, assistant_suffix=end, numbers_images=False, reserved=(*vicuna.reserved, end))


def image_processor_of(tower: PatchTower, aspect_ratio: str) -> ImageProcessor:
    """Padding to a square with the mean colour, as in training ("pad"), or the tower's plain preprocessing."""
    side = int(tower.tower.config.image_size)  # type: ignore[arg-type]  # a single number here
    is_clip = isinstance(tower.tower, CLIPVisionModel)
    if aspect_ratio == "pad":
        return PadAndResize(side) if is_clip else PadAndResize(side, SIGLIP_MEAN, SIGLIP_STD)
    return CropAndResize(side) if is_clip else SquareResize(side, SIGLIP_MEAN, SIGLIP_STD)
