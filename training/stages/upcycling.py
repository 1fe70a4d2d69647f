"""MoE-LLaVA's third training stage: a dense stage-2 model -> one with sparse experts, and what of it learns.

Every expert starts as a copy of the feed-forward it replaces (sparse upcycling, arXiv:2212.05055); only the routers are
new. Source: MoE-LLaVA, `llava_*_moe.py`, `initialize_moe_modules`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.command_line import place
from models.errors import CheckpointMismatch, ConfigError
from models.parts.sparse_decoders import SparseDecoder
from models.tensors.weights import Tensors, read_tensors
from models.vision_language_model import VisionLanguageModel

# What the released models were trained with (their config.json holds the same).
RELEASED_SETTINGS = {
    "moe_enable": True,
    "moe_mode": "sparse",
    "top_k_experts": 2,
    "capacity_factor": 1.5,
    "eval_capacity_factor": 2.0,
    "min_capacity": 0,
    "ep_size": 1,
    "use_residual": False,
    "router_aux_loss_coef": 0.01,
}
MODES = ("sparse", "dense", "first_half", "second_half")

_FEED_FORWARD = re.compile(r"^((?:model\.layers|transformer\.h)\.(\d+)\.mlp\.)(.+)$")
_WEIGHTS = ("*.safetensors*", "*.bin", "*.bin.index.json")


def layer_indices(mode: str, num_layers: int) -> list[int]:
    """Which layers get experts: every second (`sparse`), all (`dense`), or one half. Raises ConfigError."""
    ranges = {
        "sparse": range(0, num_layers, 2),
        "dense": range(num_layers),
        "first_half": range(num_layers // 2),
        "second_half": range(num_layers // 2, num_layers),
    }
    if mode not in ranges:
        raise ConfigError(f"moe_mode is {mode!r}; choose one of {', '.join(MODES)}.")
    return list(ranges[mode])


def upcycle(tensors: Mapping[str, Tensor], layers: Sequence[int], *, num_experts: int = 4, seed: int = 0) -> Tensors:
    """Released tensors of a dense model -> those of one with `num_experts` equal experts in these layers.

    Experts share their storage until they are trained or saved. Routers [E, H] in fp32 are uniform within 1/sqrt(H),
    as a linear layer starts. Raises CheckpointMismatch if a layer has no dense feed-forward.
    """
    generator = torch.Generator().manual_seed(seed)
    sparse: Tensors = {}
    routers: dict[int, tuple[str, int]] = {}  # layer -> name, hidden width
    for name, tensor in tensors.items():
        match = _FEED_FORWARD.match(name)
        if match is None or int(match[2]) not in layers:
            sparse[name] = tensor
            continue
        prefix, layer, rest = match[1], int(match[2]), match[3]
        if rest.startswith("deepspeed_moe."):
            raise CheckpointMismatch(f"Layer {layer} has experts already ({name}); start from a stage-2 model.")
        if rest in ("fc1.weight", "up_proj.weight", "w1.weight"):
            routers[layer] = f"{prefix}deepspeed_moe.gate.wg.weight", tensor.shape[1]
        for expert in range(num_experts):
            sparse[f"{prefix}deepspeed_moe.experts.deepspeed_experts.{expert}.{rest}"] = tensor
    if missing := sorted(set(layers) - routers.keys()):
        raise CheckpointMismatch(f"There is no feed-forward in layer {missing[0]}; is it a MoE-LLaVA stage-2 model?")
    for _, (name, hidden) in sorted(routers.items()):
        sparse[name] = torch.empty(num_experts, hidden).uniform_(-1, 1, generator=generator) / hidden**0.5
    return sparse


def upcycle_config(values: Mapping[str, Any], layers: Sequence[int], *, num_experts: int = 4) -> dict[str, Any]:
    """The dense model's config.json values -> the sparse one's."""
    kind = str(values.get("model_type", "")).removeprefix("llava_")
    moe = {**RELEASED_SETTINGS, "moe_layers_idx": list(layers), "num_experts": [num_experts] * len(layers)}
    return {**values, "model_type": f"moe_llava_{kind}", "moe": moe}


def upcycle_folder(
    source: Path, destination: Path, *, mode: str = "sparse", num_experts: int = 4, seed: int = 0
) -> None:
    """A stage-2 folder -> a folder that stage 3 starts from, with tokenizer and other files copied along.

    Raises CheckpointMissing, CheckpointMismatch or ConfigError.
    """
    tensors = read_tensors(source)
    values = json.loads((source / "config.json").read_text(encoding="utf-8"))
    layers = layer_indices(mode, values["num_hidden_layers"])
    sparse = upcycle(tensors, layers, num_experts=num_experts, seed=seed)
    destination.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, destination, ignore=shutil.ignore_patterns(*_WEIGHTS), dirs_exist_ok=True)
    # Copies, as a safetensors file can't hold one tensor under several names.
    save_file({name: tensor.clone().contiguous() for name, tensor in sparse.items()}, destination / "model.safetensors")
    text = json.dumps(upcycle_config(values, layers, num_experts=num_experts), indent=2)
    (destination / "config.json").write_text(text + "\n", encoding="utf-8")


def stage_3_modules(model: VisionLanguageModel) -> tuple[nn.Module, ...]:
    """What learns in stage 3: every layer's feed-forward, with experts (and their router) or without, and the
    connector. Attention, norms, embeddings, head and tower stay as they are."""
    decoder = model.language_model
    assert isinstance(decoder, SparseDecoder)
    return (*(layer.mlp for layer in decoder.model.layers), model.connector)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m training.sparse_upcycling STAGE2_FOLDER NEW_FOLDER`."""
    parser = argparse.ArgumentParser(
        prog="python -m training.sparse_upcycling",
        description="Turn a dense MoE-LLaVA stage-2 model into one with sparse experts.",
    )
    parser.add_argument("source", type=place, help="the stage-2 model's folder")
    parser.add_argument("destination", type=place, help="the new folder")
    parser.add_argument("--mode", choices=MODES, default="sparse", help="which layers get experts")
    parser.add_argument("--experts", type=int, default=4, help="experts in each of these layers")
    parser.add_argument("--seed", type=int, default=0, help="of the new routers")
    options = parser.parse_args(arguments)
    upcycle_folder(
        options.source, options.destination, mode=options.mode, num_experts=options.experts, seed=options.seed
    )
