"""LoRA for training: a checkpoint's low-rank updates as peft adapters on a model that was loaded without them."""

from __future__ import annotations

import torch
from torch import nn

from models.quantization import load_bitsandbytes
from models.vision_language_model import VisionLanguageModel

load_bitsandbytes()  # before peft does
from peft import LoraConfig, inject_adapter_in_model  # noqa: E402


def attach_lora(model: VisionLanguageModel, *, dropout: float = 0.05) -> dict[str, nn.Parameter]:
    """Put `model.lora` (see `load_model(keep_lora=True)`) into trainable adapters.

    Returns the trainable parameters by the name of the weight they update, with `.lora_A` / `.lora_B` for the suffix.
    Weights whose updates share one A in the checkpoint (a fused q, k, v) share one parameter. Raises ValueError if the
    model was loaded with its LoRA merged.
    """
    lora = model.lora
    if lora is None:
        raise ValueError("The model has no separate LoRA; load it with keep_lora=True.")
    modules = {name.removesuffix(".weight") for name in lora.pairs}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides by it, a float is as good
        lora_dropout=dropout,
        target_modules=sorted(modules),
        bias="none",
    )
    inject_adapter_in_model(config, model.language_model)
    trainable: dict[str, nn.Parameter] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, (lora_a, lora_b) in lora.pairs.items():
        layer = model.language_model.get_submodule(name.removesuffix(".weight"))
        for suffix, tensor in (("lora_A", lora_a), ("lora_B", lora_b)):
            linear = getattr(layer, suffix)["default"]
            parameter = parameters.setdefault(id(tensor), linear.weight)
            with torch.no_grad():
                parameter.copy_(tensor)
            linear.weight = parameter.requires_grad_(True)
            trainable[name.removesuffix(".weight") + f".{suffix}"] = parameter
    return trainable
