"""From a dense stage-2 model to one with experts and back to released files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from models.conversation import Turn
from models.errors import CheckpointMismatch, ConfigError
from models.loader import load_model
from models.parts.sparse_decoders import SparseDecoder
from models.tensors.weights import read_tensors
from models.vision_language_model import VisionLanguageModel
from tests.models.families.sparse_reference import write_qwen
from tests.paths import GOLDENS
from training.data.llava_sequences import make_llava_batch
from training.stages.sparse_export import released_tensors
from training.stages.upcycling import (
    layer_indices,
    main,
    stage_3_modules,
    upcycle,
    upcycle_config,
    upcycle_folder,
)

DENSE: dict[str, Any] = {"moe_layers_idx": [], "num_experts": []}
SPARSE: dict[str, Any] = {"moe_layers_idx": [1, 2], "num_experts": [4, 4]}


def load(folder: Path) -> VisionLanguageModel:
    return load_model(folder / "config.yaml", device="cpu", dtype="float32", report=None)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny stage-2 folder with its YAML beside it."""
    folder = tmp_path_factory.mktemp("stage2")
    write_qwen(folder / "qwen", DENSE)
    values = json.loads((folder / "qwen" / "config.json").read_text())
    del values["moe"]
    (folder / "qwen" / "config.json").write_text(json.dumps(values | {"model_type": "llava_qwen"}))
    return folder


def upcycled(dense: Path, folder: Path, *options: str) -> VisionLanguageModel:
    main([str(dense / "qwen"), str(folder / "qwen"), *options])
    (folder / "config.yaml").write_text((dense / "config.yaml").read_text())
    return load(folder)


@pytest.mark.parametrize(("mode", "layers"), [("sparse", [0, 2]), ("dense", [0, 1, 2, 3]), ("second_half", [2, 3])])
def test_a_fresh_sparse_model_answers_as_the_dense_one(
    dense: Path, tmp_path: Path, mode: str, layers: list[int]
) -> None:
    """All experts are equal at first, and the weights of each token's two sum to one."""
    model, before = upcycled(dense, tmp_path, "--mode", mode), load(dense)
    assert isinstance(model.language_model, SparseDecoder)
    assert list(model.language_model.sparse_layers) == layers
    assert model.info.has_experts
    assert not before.info.has_experts
    turns = [Turn("user", "is the image in it?", (Image.new("RGB", (30, 20), "red"),))]
    with torch.inference_mode():
        embeds = model.embed_prompt(turns)[None]
        pairs = [some.language_model(inputs_embeds=embeds).logits for some in (model, before)]
    torch.testing.assert_close(*pairs, atol=1e-4, rtol=1e-4)


def test_experts_are_copies_that_learn_apart(dense: Path, tmp_path: Path) -> None:
    model = upcycled(dense, tmp_path)
    assert isinstance(model.language_model, SparseDecoder)
    layer = model.language_model.sparse_layers[0]
    assert layer.experts is not None
    with torch.no_grad():
        weight = layer.experts.get_parameter("down_proj")
        assert torch.equal(weight[0], weight[3])
        weight[0] += 1
        assert not torch.equal(weight[0], weight[3])
    router = layer.router.weight
    assert router.std() > 0.05
    assert router.abs().max() <= router.shape[1] ** -0.5


def test_routers_depend_on_the_seed_alone(dense: Path) -> None:
    tensors = read_tensors(dense / "qwen")
    name = "transformer.h.0.mlp.deepspeed_moe.gate.wg.weight"
    first, same, other = (upcycle(tensors, [0, 2], seed=seed)[name] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_what_learns_in_stage_3(dense: Path, tmp_path: Path) -> None:
    """One step moves feed-forwards, experts, routers and the connector, and nothing else; the balance loss counts."""
    model = upcycled(dense, tmp_path)
    for module in stage_3_modules(model):
        module.requires_grad_(True)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if ".mlp." in name and "tower" not in name} | {
        f"connector.{name}" for name, _ in model.connector.named_parameters()
    }
    turns = [Turn("user", "is it?", (Image.new("RGB", (30, 20), "red"),)), Turn("assistant", "it is")]
    batch = make_llava_batch(model, [turns], cuts_after_images=False)
    losses = []
    for coefficient in (0.0, 0.5):
        model.train()
        for layer in model.language_model.sparse_layers.values():  # type: ignore[operator]
            object.__setattr__(layer.router.layers, "router_aux_loss_coef", coefficient)
        losses.append(model(**vars(batch)).loss)
    balance = [layer.balance_loss.item() for layer in model.language_model.sparse_layers.values()]  # type: ignore[operator]
    assert (losses[1] - losses[0]).item() == pytest.approx(0.5 * sum(balance), rel=1e-4)
    assert all(value >= 0.9 for value in balance)
    losses[1].backward()
    routers = [p for name, p in model.named_parameters() if "router" in name]
    assert all(isinstance(p, nn.Parameter) and p.grad is not None and p.grad.abs().max() > 0 for p in routers)
    model.eval()
    with torch.inference_mode():
        assert model(**vars(batch)).loss.item() == pytest.approx(losses[0].item(), rel=0.2)  # no balance loss in it


@pytest.mark.parametrize("kind", ["phi2", "stablelm", "stablelm-384", "qwen"])
def test_exported_tensors_are_the_released_ones(kind: str, tmp_path: Path) -> None:
    """Loading and exporting give every tensor back, except the tower's unused end."""
    if kind == "qwen":
        released = write_qwen(tmp_path / "qwen", SPARSE)
        model = load(tmp_path)
    else:
        case = GOLDENS / f"moe-llava-{kind}"
        released = read_tensors(next((case / "weights").glob("MoE*")))
        model = load(case)
    exported = released_tensors(model)
    unused = {name for name in released.keys() - exported.keys()}
    assert exported.keys() <= released.keys()
    assert all(".image_tower." in name for name in unused)
    for name, tensor in exported.items():
        assert torch.equal(tensor, released[name]), name


def test_errors_are_explained(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one of sparse, dense"):
        layer_indices("all", 4)
    tensors = read_tensors(dense / "qwen")
    sparse = upcycle(tensors, [0])
    with pytest.raises(CheckpointMismatch, match="Layer 0 has experts already"):
        upcycle(sparse, [0])
    with pytest.raises(CheckpointMismatch, match="no feed-forward in layer 9"):
        upcycle(tensors, [0, 9])
    assert upcycle_config({"model_type": "llava_phi"}, [1, 3], num_experts=8)["moe"]["num_experts"] == [8, 8]
    with pytest.raises(ConfigError, match="choose one of sparse"):
        upcycle_folder(dense / "qwen", tmp_path / "new", mode="none")
