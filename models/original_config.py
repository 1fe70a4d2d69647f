"""Eval configs of the original MiniGPT-4 and TinyGPT-V repositories, unmodified, in our vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.errors import ConfigError

# Keys that matter for training only, or that say what we do anyway.
_IGNORED = {
    "model_type", "max_txt_len", "max_context_len", "end_sym", "prompt_template", "chat_template", "prompt_path",
    "drop_path_rate", "use_grad_checkpoint", "use_grad_checkpoint_llm", "vit_precision", "freeze_vit",
    "freeze_qformer", "vit_model", "device_8bit", "lora_target_modules", "lora_dropout", "bos_token_id",
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
_LLAMA_2 = "meta-llama/Llama-2-7b-chat-hf"


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
    adapted: dict[str, Any] = {"family": arch, "language_model": _LLAMA_2}
    has_qformer = model.pop("has_qformer", "llama2" not in model_type)
    if _is_tinygpt(model, source):
        adapted = {"family": "tinygpt_v", "language_model": "microsoft/phi-2"}
        adapted["conversation"] = "vicuna_v0" if arch == "minigpt4" else "minigpt_v2"
    elif arch == "minigpt4":
        adapted["conversation"] = "llama_2" if "llama2" in model_type else "vicuna_v0"
        adapted["has_qformer"] = has_qformer
        if "vicuna" in model_type:
            adapted["language_model"] = "Vision-CAIR/vicuna-7b"
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
    return adapted


def _is_tinygpt(model: dict[str, Any], source: Path) -> bool:
    """TinyGPT-V took over the arch names of MiniGPT-4; its configs have a key of their own, its files a tensor."""
    if "bos_token_id" in model:
        return True
    checkpoint = source.parent / str(model.get("ckpt", ""))
    if not checkpoint.is_file():
        return False
    from models.weights import read_tensors  # loads torch, which most configurations don't need

    return "llama_proj2.weight" in read_tensors(checkpoint)


def _dataset_image_size(values: dict[str, Any]) -> int | None:
    """`datasets.<name>.vis_processor.train.image_size`, where demo.py and demo_v2.py of the original look."""
    for dataset in (values.get("datasets") or {}).values():
        train = ((dataset or {}).get("vis_processor") or {}).get("train") or {}
        if "image_size" in train:
            return int(train["image_size"])
    return None
