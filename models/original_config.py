"""Eval configs of the original MiniGPT-4 repository, unmodified, in our vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.errors import ConfigError

# Keys that matter for training only, or that say what we do anyway.
_IGNORED = {
    "model_type", "max_txt_len", "max_context_len", "end_sym", "prompt_template", "chat_template", "prompt_path",
    "drop_path_rate", "use_grad_checkpoint", "use_grad_checkpoint_llm", "vit_precision", "freeze_vit",
    "freeze_qformer", "vit_model", "device_8bit", "lora_target_modules", "lora_dropout",
}  # fmt: skip
_RENAMED = {
    "ckpt": "checkpoint",
    "llama_model": "language_model",
    "q_former_model": "qformer",
    "image_size": "image_size",
    "num_query_token": "num_query_tokens",
    "lora_r": "lora_rank",
    "lora_alpha": "lora_alpha",
}
_LANGUAGE_MODELS = {"pretrain_vicuna0": "Vision-CAIR/vicuna-7b"}
_DEFAULT_LANGUAGE_MODEL = "meta-llama/Llama-2-7b-chat-hf"


def is_original_config(values: dict[str, Any]) -> bool:
    """Whether a YAML has the shape of the original repositories (`model: {arch: …}`)."""
    return isinstance(values.get("model"), dict) and "arch" in values["model"]


def adapt_original_config(values: dict[str, Any], *, source: Path) -> dict[str, Any]:
    """The same settings in our vocabulary.

    `low_resource` becomes 8-bit loading; the image size is taken from the (training) dataset section where the original
    demo reads it; a language model that the original keeps in another file defaults to its hub id.
    """
    model = dict(values["model"])
    arch, model_type = model.pop("arch"), str(model.get("model_type", ""))
    adapted: dict[str, Any] = {"family": arch}
    has_qformer = model.pop("has_qformer", "llama2" not in model_type)
    if arch == "minigpt4":
        adapted["conversation"] = "llama_2" if "llama2" in model_type else "vicuna_v0"
        adapted["has_qformer"] = has_qformer
    if model.pop("low_resource", False):
        adapted["quantization"] = "8bit"
    if size := _dataset_image_size(values):
        adapted["image_size"] = size
    for key, value in model.items():
        if key in _RENAMED:
            adapted[_RENAMED[key]] = value
        elif key not in _IGNORED:
            known = ", ".join(sorted([*_IGNORED, *_RENAMED, "arch", "low_resource", "has_qformer"]))
            raise ConfigError(f"{source}: unknown key 'model.{key}'; known keys: {known}.")
    adapted.setdefault("language_model", _LANGUAGE_MODELS.get(model_type, _DEFAULT_LANGUAGE_MODEL))
    return adapted


def _dataset_image_size(values: dict[str, Any]) -> int | None:
    """`datasets.<name>.vis_processor.train.image_size`, where demo.py and demo_v2.py of the original look."""
    for dataset in (values.get("datasets") or {}).values():
        train = ((dataset or {}).get("vis_processor") or {}).get("train") or {}
        if "image_size" in train:
            return int(train["image_size"])
    return None
