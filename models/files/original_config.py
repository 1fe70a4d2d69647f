"""Eval configs of the original MiniGPT-4 and TinyGPT-V repositories, unmodified, in our vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.errors import ConfigError

_SECTIONS = ("model", "datasets", "evaluation_datasets", "run")  # of an original config; all other keys are ours
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
    demo reads it; a language model that the original keeps in another file defaults to its hub id. Keys outside the
    original's sections are ours (from `--options`) and win. Raises ConfigError.
    """
    model = dict(values["model"])
    arch, model_type = model.pop("arch"), str(model.get("model_type", ""))
    adapted: dict[str, Any] = {"family": arch, "language_model": _LLAMA_2}
    has_qformer = model.pop("has_qformer", "llama2" not in model_type)
    if _is_tinygpt(model, source):
        adapted = {"family": "tinygpt_v", "language_model": "microsoft/phi-2"}
        adapted["conversation"] = "vicuna_v0"
        if arch != "minigpt4":  # stage 4, whose demo has other defaults
            adapted |= {"conversation": "minigpt_v2", "sampling": {"temperature": 0.6, "max_new_tokens": 500}}
    elif arch == "minigpt4":
        adapted["conversation"] = "llama_2" if "llama2" in model_type else "vicuna_v0"
        adapted["has_qformer"] = has_qformer
        if "vicuna" in model_type:
            adapted["language_model"] = "Vision-CAIR/vicuna-7b"
    if (low_resource := model.pop("low_resource", None)) is not None:
        if not isinstance(low_resource, bool):
            raise ConfigError(f"{source}: model.low_resource is {low_resource!r}; it must be true or false.")
        adapted["quantization"] = "8bit" if low_resource else "none"
    if (size := _dataset_image_size(values, where=str(source))) is not None:
        adapted["image_size"] = size
    for key, value in model.items():
        if key in _RENAMED:
            adapted[_RENAMED[key]] = value
        elif key not in _IGNORED:
            known = ", ".join(sorted([*_IGNORED, *_RENAMED, "arch", "low_resource", "has_qformer"]))
            raise ConfigError(f"{source}: unknown key 'model.{key}'; known keys: {known}.")
    for key, value in values.items():
        if key not in _SECTIONS:
            both = isinstance(value, dict) and isinstance(adapted.get(key), dict)
            adapted[key] = adapted[key] | value if both else value
    return adapted


def _is_tinygpt(model: dict[str, Any], source: Path) -> bool:
    """TinyGPT-V took over the arch names of MiniGPT-4; its configs have a key of their own, its files a tensor."""
    if "bos_token_id" in model:
        return True
    checkpoint = source.parent / str(model.get("ckpt", ""))
    if not checkpoint.is_file():
        return False
    from models.tensors.weights import read_tensors  # loads torch, which most configurations don't need

    return "llama_proj2.weight" in read_tensors(checkpoint)


def _dataset_image_size(values: dict[str, Any], *, where: str) -> Any:
    """`datasets.<name>.vis_processor.train.image_size`, where demo.py and demo_v2.py of the original look, or None."""

    def section(values: dict[str, Any], key: str, *, where: str) -> dict[str, Any]:
        inner = values.get(key) or {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{where}: {key} is {inner!r}; it must be a mapping of keys.")
        return inner

    datasets = section(values, "datasets", where=where)
    for name in datasets:
        dataset = section(datasets, name, where=f"{where}: datasets")
        processor = section(dataset, "vis_processor", where=f"{where}: datasets.{name}")
        train = section(processor, "train", where=f"{where}: datasets.{name}.vis_processor")
        if "image_size" in train:
            return train["image_size"]
    return None
