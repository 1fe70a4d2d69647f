"""The forms of recordings that no shipped case has: shipped ones, rewritten in a temporary folder, are still checked.

What a rewritten step should give comes from running it here: with experts as linear layers where they are recorded one
by one, so that the check does not compare its own way of cutting stacked ones.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.config import load_config
from models.families import mini_gemini
from models.files.released import ReleasedFiles
from models.loader import load_model, materialise
from models.parts.dual_vision import DualVisionTower
from models.parts.sparse_decoders import SparseDecoder
from models.tensors.weights import read_tensors
from models.vision_language_model import IMAGE_PLACEHOLDER, VisionLanguageModel
from tests.mgm_steps import check_mgm_step
from tests.models.families.mgm_writer import EXPERTS, Form, write_model
from tests.paths import GOLDENS
from tests.recorded_case import Case
from tests.sparse_steps import check_sparse_step, combine_weights, released_gradients
from training.data.minigpt_sequences import Batch
from training.families import moe_llava

CPU = torch.device("cpu")


def load(case: Case) -> VisionLanguageModel:
    return load_model(case.folder / "config.yaml", device="cpu", dtype="float32", report=None)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


# An HD model over Mixtral: stage 2 alone, five views of a picture, experts one by one.
MIXTRAL_NAMES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def separate_mixtral(config_file: Path) -> VisionLanguageModel:
    """The model with each expert as three linear layers, as for 8-bit loading, in fp32."""
    config = dataclasses.replace(load_config(config_file), quantization="8bit")
    assert isinstance(config, mini_gemini.Config)
    files = ReleasedFiles(config)
    parts = mini_gemini.parts(config, files)
    modules = {key: materialise(part, device=CPU, dtype=torch.float32) for key, part in parts.items()}
    return mini_gemini.assemble(config, files, modules, mini_gemini.tokenizer(files))


def released_mixtral_name(name: str) -> str:
    for ours, theirs in MIXTRAL_NAMES.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    return mini_gemini_name(name.replace(".mlp.", ".block_sparse_moe."))


def mini_gemini_name(name: str) -> str:
    kinds = {"query": "vlm_uni_query_projector", "key": "vlm_uni_aux_projector", "value": "vlm_uni_val_projector"}
    part, _, rest = name.partition(".")
    if part != "connector":
        return rest
    layer, _, rest = rest.partition(".")
    return f"model.{kinds.get(layer, 'mm_projector')}.{rest}"


def before_image_tokens(batch: Batch) -> dict[str, Tensor]:
    """Ids and labels as the reference's collator gives them: one -200 for each picture."""
    rows = []
    for ids, labels, mask in zip(batch.input_ids, batch.labels, batch.attention_mask, strict=True):
        is_image = ids == IMAGE_PLACEHOLDER
        kept = (mask == 1) & ~(is_image & is_image.roll(1))
        rows.append((ids[kept].masked_fill(is_image[kept], -200), labels[kept], mask[kept]))
    columns = zip(*rows, strict=True)
    names = ("train.input_ids", "train.labels", "train.attention_mask")
    return {
        name: torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True)
        for name, column in zip(names, columns, strict=True)
    }


@pytest.fixture(scope="module")
def hd_mixtral(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The shipped recording of MGM-7B's stage 2, rewritten for another model."""
    golden, folder = GOLDENS / "mgm-7b", tmp_path_factory.mktemp("hd-mixtral")
    for name in ("case.json", "training.json", "train_data.json", "image.png", "image2.png"):
        shutil.copy(golden / name, folder)
    write_model(
        folder / "model",
        Form(tokenizer="sentencepiece", is_hd=True, is_sparse=True),
        next(golden.rglob("tokenizer.model")),
    )
    rewrite(folder / "training.json", lambda record: record.pop("stage1"))
    model = separate_mixtral(folder / "config.yaml")
    trained = {n: p for n, p in model.named_parameters() if n.startswith(("connector.", "language_model."))}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    batch = Case(folder).step("stage2").make_batch(model)
    loss = model(**vars(batch)).loss
    loss.backward()
    norms = {released_mixtral_name(n): p.grad.norm().item() for n, p in trained.items() if p.grad is not None}
    trainable = [released_mixtral_name(name) for name in trained]
    values = {"loss": loss.item(), "grad_l2_norms": norms, "trainable_parameters": trainable}
    rewrite(folder / "training.json", lambda record: record["stage2"].update(values))
    assert isinstance(model.vision_tower, DualVisionTower)
    assert batch.pixel_values is not None
    views = model.vision_tower.low_views(batch.pixel_values)
    save_file(before_image_tokens(batch) | {"train.images": views.contiguous()}, folder / "expected.safetensors")
    return Case(folder)


def test_stage_2_alone_with_five_views_and_experts_one_by_one(hd_mixtral: Case) -> None:
    assert hd_mixtral.steps() == ["stage2"]
    assert hd_mixtral.expected["train.images"].shape[:3] == (2, 5, 3)
    assert (
        f"model.layers.0.block_sparse_moe.experts.{EXPERTS - 1}.w2.weight"
        in hd_mixtral.training["stage2"]["grad_l2_norms"]
    )
    check_mgm_step(hd_mixtral, "stage2", load(hd_mixtral))


@pytest.mark.parametrize("changed", ["view", "expert", "missing expert"])
def test_a_changed_value_is_noticed(hd_mixtral: Case, changed: str, tmp_path: Path) -> None:
    case = Case(Path(shutil.copytree(hd_mixtral.folder, tmp_path / "case")))
    if changed == "view":
        case.expected["train.images"][1, 4] += 0.1
    norms, name = case.training["stage2"]["grad_l2_norms"], "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    if changed == "expert":
        norms[name] *= 1.1
    if changed == "missing expert":
        del norms[name]
        case.training["stage2"]["trainable_parameters"].remove(name)
    with pytest.raises(AssertionError):
        check_mgm_step(case, "stage2", load(case))


# MoE-LLaVA with three experts in one layer and two in the other.
NUM_EXPERTS = {0: 3, 2: 2}


@pytest.fixture(scope="module")
def few_experts(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A shipped recording whose model lost some of its experts."""
    folder = Path(shutil.copytree(GOLDENS / "moe-llava-stablelm", tmp_path_factory.mktemp("few") / "case"))
    weights = folder / "weights" / "MoE-LLaVA-StableLM-1.6B-4e"
    tensors = read_tensors(weights)
    for layer, count in NUM_EXPERTS.items():
        experts = f"model.layers.{layer}.mlp.deepspeed_moe."
        tensors[f"{experts}gate.wg.weight"] = tensors[f"{experts}gate.wg.weight"][:count]
        for number in range(count, 4):
            prefix = f"{experts}experts.deepspeed_experts.{number}."
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    for file in weights.glob("pytorch_model*"):
        file.unlink()
    torch.save(tensors, weights / "pytorch_model.bin")
    rewrite(weights / "config.json", lambda values: values["moe"].update(num_experts=list(NUM_EXPERTS.values())))
    case = Case(folder)
    values, expected = moe_step(case)
    rewrite(folder / "training.json", lambda record: (record.pop("noisy"), record.update(values)))
    save_file(expected, folder / "expected.safetensors")
    return Case(folder)


def moe_step(case: Case) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What this model's third stage gives, in the form of a recording."""
    model = load(case)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(moe_llava.STAGES["3"].trains(name))
    model.train()
    decoder = model.language_model
    assert isinstance(decoder, SparseDecoder)
    with decoder.record_routing() as routings:
        output = model(**vars(case.step("stage3").make_batch(model)))
    output.loss.backward()
    norms = {name: gradient.norm().item() for name, gradient in released_gradients(model).items()}
    routing = {
        layer: {
            "l_aux": found.balance_loss().item(),
            "assignments_dropped": int((found.weights == 0).sum()),
            "exp_counts_first_choice": [int((found.experts[:, 0] == n).sum()) for n in range(NUM_EXPERTS[layer])],
        }
        for layer, found in routings.items()
    }
    values = {"loss": output.loss.item(), "grad_l2_norm": norms, "trainable": list(norms), "routing": routing}
    weights = {f"train.moe.layer{n}.combine_weights": combine_weights(found).detach() for n, found in routings.items()}
    return values, weights | {"train.logits": output.logits.detach()}


def test_other_numbers_of_experts(few_experts: Case) -> None:
    assert few_experts.steps() == ["stage3"]
    assert [few_experts.expected[f"train.moe.layer{n}.combine_weights"].shape[1] for n in NUM_EXPERTS] == [3, 2]
    check_sparse_step(few_experts, "stage3", load(few_experts))


@pytest.mark.parametrize("name", ["phi2", "stablelm", "stablelm-384"])
def test_shipped_steps_drop_what_finds_no_place(name: str) -> None:
    routing = Case(GOLDENS / f"moe-llava-{name}").training["routing"]
    assert all(layer["assignments_dropped"] > 0 for layer in routing.values())
