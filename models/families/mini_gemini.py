"""Mini-Gemini / MGM (arXiv:2403.18814): CLIP-L/14-336 and ConvNeXt-L over one picture -> patch info mining -> an LLM.

Released by dvlab-research/MGM as whole folders (towers included) over Gemma, Vicuna, LLaMA-3, Mixtral and Yi. 576 image
tokens, or 2880 for the HD models (four crops and the whole).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import CLIPVisionConfig, ConvNextConfig, GemmaForCausalLM, MixtralForCausalLM, PreTrainedModel

from models.conversation import Sampling
from models.errors import CheckpointMismatch, CheckpointMissing, ConfigError
from models.extras import Extras
from models.family_config import FamilyConfig, released_file
from models.files.adapters import ADAPTER_HINT
from models.files.released import ReleasedFiles
from models.formats.llava import FORMATS, LLAVA_TASKS, STOP_PIECES
from models.parts.causal_lm import causal_lm_part
from models.parts.dual_vision import (
    CONVNEXT_LAYERS,
    CONVNEXT_RULES,
    ClipPatches,
    ConvNextStages,
    DualVisionTower,
    convnext_sizes,
)
from models.parts.llava_vision import tower_part
from models.parts.patch_mining import PatchMiningConnector
from models.parts.trained_values import LLAVA_AS_RELEASED, check_as_released
from models.preprocessing import CropAndResize, PadAndResize
from models.tensors.module_config import as_config_error, module_config
from models.tensors.origins import Origin
from models.tensors.weights import Part, Rename, Tensors, first_names, rename, renamed_from, take_prefix
from models.tokenizers.pieces import PieceTokenizer
from models.vision_language_model import VisionLanguageModel

# Stage 1 of every size, for a projector that comes without its config.json.
STAGE_1 = {"image_size_aux": 768, "image_grid": 1, "image_global": False, "image_aspect_ratio": "square"}
CONVNEXT_L = {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]}

AS_RELEASED = {**LLAVA_AS_RELEASED, "mm_vision_select_feature": ("patch",)}  # CLIP's first vector is never used

_OWN_TOWER = "Leave the key out to use the model's own weights."
_CONNECTOR_RULES = (
    Rename(r"^vlm_uni_query_projector\.", "query."),
    Rename(r"^vlm_uni_aux_projector\.", "key."),
    Rename(r"^vlm_uni_val_projector\.", "value."),
    Rename(r"^mm_projector\.", "projection."),
)


@dataclass(frozen=True, kw_only=True)
class Config(FamilyConfig):
    """Keys of an MGM YAML. Sizes come from the folder's config.json; the tower folders are optional.

    `projector` is a stage-1 `mm_projector.bin` over a base language model; without it the folder is a whole MGM model.
    `trained_with_extras`: the checkpoint was taught to use text read in pictures and to describe pictures to draw.
    `ocr`, `generate`: whether the original's options of these names are on at first (see models/extras.py).
    `vision_config`, `vision_aux_config` override fields of transformers' `CLIPVisionConfig`, `ConvNextConfig`.
    """

    language_model: str = released_file("The released MGM models are at https://huggingface.co/YanweiLi.")
    projector: str | None = released_file(
        "The stage-1 files are at https://huggingface.co/YanweiLi/MGM-Pretrain, one folder per model.", default=None
    )
    adapter: str | None = released_file(ADAPTER_HINT, default=None)
    vision_tower: str | None = released_file(f"It is openai/clip-vit-large-patch14-336. {_OWN_TOWER}", default=None)
    vision_tower_aux: str | None = released_file(
        f"It is laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup. {_OWN_TOWER}", default=None
    )
    conversation: str | None = None
    trained_with_extras: bool = True
    ocr: bool = False
    generate: bool = False
    image_generator: str = Extras.image_generator
    vision_config: dict[str, Any] = field(default_factory=dict)
    vision_aux_config: dict[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(
        default_factory=lambda: Sampling(temperature=0.2, top_p=1.0, max_new_tokens=512, repetition_penalty=1.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conversation is not None:
            self.check_choice("conversation", FORMATS)
        if not self.trained_with_extras and (self.ocr or self.generate):
            raise ConfigError(
                f"{self.source}: this checkpoint was not trained to use text read in pictures (ocr, --ocr) nor to "
                "have pictures drawn (generate, --gen), says trained_with_extras: false. Leave them out."
            )


def parts(config: Config, files: ReleasedFiles) -> dict[str, Part]:
    """Both towers, the connector and the language model. Of CLIP the model's own copy wins, of ConvNeXt a folder."""
    source = files.source("language_model")
    tensors = files.tensors("language_model")
    visual = take_visual(tensors)
    hint = "Is the folder complete?"
    if config.projector is not None:
        if visual:
            raise CheckpointMismatch(f"{source} is a whole MGM model already; leave the key projector out.")
        visual = take_visual(files.tensors("projector"))
        source, hint = files.source("projector"), f"Was it trained for {source}?"
    if not any(name.startswith("vlm_uni") for name in visual):
        raise CheckpointMismatch(
            f"{source} has no patch info mining (vlm_uni_*), so it is not an MGM model "
            f"({first_names(visual | tensors)})."
        )
    files.trained_context()  # refused here, before any weights are read
    folder, described = files.source("language_model"), str(files.config_folder("language_model"))
    check_as_released(visual_values(config, files), AS_RELEASED, source=described)
    with as_config_error(f"{described}/config.json"):
        llm = causal_lm_part(
            tensors,
            files.config_values("language_model"),
            source=folder,
            is_quantized=config.is_quantized,
            lora=files.lora(),
        )
        low = _clip_part(config, files, take_prefix(visual, "vision_tower.vision_tower."), source)
        high = _convnext_part(config, files, take_prefix(visual, "vision_tower_aux."), source)
        _check_pictures(visual_values(config, files), low.config, source=described)
    towers = " and ".join(sorted({low.source, high.source} - {source}))
    connector = Part(
        name="connector",
        source=source,
        module_class=PatchMiningConnector,
        config={
            "vision_width": low.config.hidden_size,
            "aux_width": sum(high.config.hidden_sizes),
            "text_width": llm.config.hidden_size,
        },
        tensors=rename(visual, _CONNECTOR_RULES),
        hint=f"{hint} Does it belong to {towers}?" if towers else hint,
        released=lambda name: Origin(source, "model." + renamed_from(name, _CONNECTOR_RULES)),
    )
    return {"vision_tower": low, "vision_tower_aux": high, "connector": connector, "language_model": llm}


def _check_pictures(values: Mapping[str, Any], clip: CLIPVisionConfig, *, source: str) -> None:
    """Raises CheckpointMismatch for sizes with which the patches have no windows of whole positions."""
    side, grid = values.get("image_size_aux"), values.get("image_grid") or 1
    if not isinstance(grid, int) or grid < 1:
        raise CheckpointMismatch(f"{source}: its config.json has image_grid {grid!r}; it must be 1 or more.")
    if grid == 1 and values.get("image_global"):
        raise CheckpointMismatch(f"{source}: its config.json has image_global without an image_grid of 2.")
    step = 4 * grid * int(clip.image_size) // int(clip.patch_size)  # type: ignore[arg-type]  # ConvNeXt's first stride
    if not isinstance(side, int) or side <= 0 or side % step:
        raise CheckpointMismatch(
            f"{source}: its config.json has image_size_aux {side!r}; it must be a multiple of {step}."
        )


def take_visual(tensors: Tensors) -> Tensors:
    """Remove and return what is not the language model: towers, patch info mining and projector."""
    names = [name for name in tensors if name.startswith(("model.vision_tower", "model.mm_projector", "model.vlm_uni"))]
    return {name.removeprefix("model."): tensors.pop(name) for name in names}


def visual_values(config: Config, files: ReleasedFiles) -> dict[str, Any]:
    """What config.json says about pictures. Of a stage-1 file it is beside the file, if anywhere."""
    if config.projector is None:
        return files.config_values("language_model")
    file = files.path("projector")
    folder = file if file.is_dir() else file.parent
    beside = files.read_config(folder) if (folder / "config.json").is_file() else {}
    own = {key: value for key, value in beside.items() if key.startswith(("mm_", "image_", "tokenizer_"))}
    return files.config_values("language_model") | STAGE_1 | own


def _clip_part(config: Config, files: ReleasedFiles, shards: Tensors, source: str) -> Part:
    """CLIP: the shards' weights (as the reference ends up with), the sizes of its folder where there is one."""
    folder = tower_folder(config, files, "vision_tower")
    sizes: dict[str, Any] = {}
    if folder is not None and (folder / "config.json").is_file():
        sizes = files.read_config(folder).get("vision_config", {})
    if shards:
        released = shards
    elif folder is not None:
        released = files.read(folder)
    else:
        raise _no_tower(config, source, "vision_tower", "openai/clip-vit-large-patch14-336")
    part = tower_part(
        released,
        is_siglip=False,
        layer=visual_values(config, files).get("mm_vision_select_layer", -2),
        values=sizes,
        overrides=config.vision_config,
        source=source if shards else str(folder),
        where=f"{folder}/config.json" if sizes and not config.vision_config else f"{config.source}: vision_config",
    )
    note = ""
    if shards and folder is not None:
        note = f"Vision tower: its copy in the model's own files is used, not the weights in {folder}."
    return replace(part, module_class=ClipPatches, note=note)


def _convnext_part(config: Config, files: ReleasedFiles, shards: Tensors, source: str) -> Part:
    """ConvNeXt: the OpenCLIP file where there is one (as the reference does), else the shards."""
    folder = tower_folder(config, files, "vision_tower_aux")
    file = folder / "open_clip_pytorch_model.bin" if folder is not None else None
    if config.vision_tower_aux is not None and file is not None and not file.is_file():
        raise CheckpointMissing(
            f"{config.source}: vision_tower_aux is {config.vision_tower_aux}, which holds no {file.name}; finish its "
            "download, or leave the key out to use what the model's own files hold."
        )
    released = files.read(file) if file is not None and file.is_file() else shards
    if not released:
        name = "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
        raise _no_tower(config, source, "vision_tower_aux", name)
    tensors = rename(released, CONVNEXT_RULES)
    own = "model.vision_tower_aux.vision_" if released is shards else "visual.trunk."
    origin_file = source if released is shards else str(file)
    values = {**CONVNEXT_L, **convnext_sizes(tensors), "hidden_act": "gelu", "layer_norm_eps": 1e-6}
    where = f"{config.source}: vision_aux_config"
    used = f"High-resolution tower: {file} is used, not a copy in the model's own files."
    return Part(
        name="high-resolution tower",
        source=origin_file,
        module_class=ConvNextStages,
        config=module_config(ConvNextConfig, values, config.vision_aux_config, where=where),
        tensors=tensors,
        hint="Is it CLIP-convnext_large_d_320?",
        released=lambda name: Origin(origin_file, renamed_from(name, CONVNEXT_LAYERS).replace("visual.trunk.", own)),
        note="" if released is shards else used,
    )


def _no_tower(config: Config, source: str, key: str, name: str) -> CheckpointMissing:
    return CheckpointMissing(
        f"{source} holds no {key}, and {config.source} names none; set {key} to the folder of {name}."
    )


def tower_folder(config: Config, files: ReleasedFiles, key: str) -> Path | None:
    """A tower's own folder: the YAML's, or as config.json names it; or None."""
    near = "language_model" if config.projector is None else "projector"
    return files.tower_folder(key, visual_values(config, files).get(f"mm_{key}"), near=near)


def tokenizer(files: ReleasedFiles) -> PieceTokenizer:
    """The language model's tokenizer."""
    return PieceTokenizer(files.path("language_model"))


def assemble(
    config: Config, files: ReleasedFiles, modules: Mapping[str, nn.Module], tokenizer: PieceTokenizer
) -> VisionLanguageModel:
    """Put the loaded modules together."""
    low, high, llm = modules["vision_tower"], modules["vision_tower_aux"], modules["language_model"]
    assert isinstance(low, ClipPatches)
    assert isinstance(high, ConvNextStages)
    assert isinstance(llm, PreTrainedModel)
    values = visual_values(config, files)
    tower = DualVisionTower(
        low=low, high=high, grid=values.get("image_grid") or 1, has_global=bool(values.get("image_global"))
    )
    conversation = config.conversation or conversation_of(tokenizer, llm)
    stops = (tokenizer.id_of(piece) for piece in STOP_PIECES[conversation])
    return VisionLanguageModel(
        vision_tower=tower,
        vision_features=tower.features,
        connector=modules["connector"],
        language_model=llm,
        tokenizer=tokenizer,
        image_processor=(CropAndResize if values.get("image_aspect_ratio") == "square" else PadAndResize)(
            values["image_size_aux"]
        ),
        prompt_format=FORMATS[conversation],
        num_image_tokens=tower.num_patches * tower.num_views,
        embed_scale=llm.config.hidden_size**0.5 if isinstance(llm, GemmaForCausalLM) else 1.0,
        info=config.model_info(
            default_name="Mini-Gemini",
            tasks=LLAVA_TASKS,
            trained_context=files.trained_context(),
            max_images_per_turn=3 if tower.grid == 1 else 1,
            extras=Extras(ocr=config.ocr, generate=config.generate, image_generator=config.image_generator)
            if config.trained_with_extras
            else None,
        ),
        eos_token_ids=tuple({tokenizer.eos_token_id, *(stop for stop in stops if stop is not None)}),
        penalised_ids=(),
    )


def conversation_of(tokenizer: PieceTokenizer, llm: PreTrainedModel) -> str:
    """The prompt format a released language model was trained with, from its vocabulary and class."""
    if tokenizer.id_of("<|eot_id|>") is not None:
        return "llama_3"
    if tokenizer.id_of("<|im_end|>") is not None:
        return "chatml_direct"
    if isinstance(llm, GemmaForCausalLM):
        return "gemma"
    return "mistral_instruct" if isinstance(llm, MixtralForCausalLM) else "vicuna_v1"
