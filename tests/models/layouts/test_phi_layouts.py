"""TinyGPT-V from every published form of its files: three layouts of Phi-2, LoRA or none, older and newer names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.conversation import Turn
from models.errors import CheckpointMismatch, ConfigError
from models.loader import load_model
from models.parts.phi import join_interleaved, split_interleaved
from tests.paths import GOLDENS

CASE = GOLDENS / "tinygptv-stage3"
STAGE = "weights/TinyGPT-V_for_Stage3.pth"
Tensors = dict[str, Tensor]


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CASE, tmp_path / "case"))


def logits(case: Path, *overrides: str) -> Tensor:
    model = load_model(case / "config.yaml", device="cpu", overrides=overrides, report=None)
    with torch.inference_mode():
        embeds = model.embed_prompt([Turn("user", "Describe this image in detail.")])[None]
        return model.language_model(inputs_embeds=embeds).logits


def microsoft(native: Tensors, *, numbered: bool) -> Tensors:
    """Today's tensors in one of Microsoft's two first layouts."""
    depth = 1 + max(int(name.split(".")[2]) for name in native if ".layers." in name)
    block = (lambda n: f"layers.{n + 1}.") if numbered else (lambda n: f"transformer.h.{n}.")
    head = f"layers.{depth + 1}." if numbered else "lm_head."
    embedding = "layers.0.wte.weight" if numbered else "transformer.embd.wte.weight"
    out = {embedding: native["model.embed_tokens.weight"]}
    for kind in ("weight", "bias"):
        out[f"{head}ln.{kind}"] = native[f"model.final_layernorm.{kind}"]
        out[f"{head}linear.{kind}"] = native[f"lm_head.{kind}"]
        for n in range(depth):
            old, new = f"model.layers.{n}.", block(n)
            out[f"{new}mixer.Wqkv.{kind}"] = torch.cat([native[f"{old}self_attn.{p}_proj.{kind}"] for p in "qkv"])
            out[f"{new}mixer.out_proj.{kind}"] = native[f"{old}self_attn.dense.{kind}"]
            out[f"{new}ln.{kind}"] = native[f"{old}input_layernorm.{kind}"]
            for layer in ("fc1", "fc2"):
                out[f"{new}mlp.{layer}.{kind}"] = native[f"{old}mlp.{layer}.{kind}"]
    return out


@pytest.mark.parametrize("numbered", [False, True], ids=["transformer.h", "layers"])
def test_microsofts_first_layouts_give_the_same_logits(case: Path, numbered: bool) -> None:
    folder = case / "weights" / "phi-2-native"
    values = json.loads((folder / "config.json").read_text())
    tensors = microsoft(load_file(folder / "model.safetensors"), numbered=numbered)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    old = {
        "model_type": "phi-msft",
        "n_embd": values["hidden_size"],
        "n_head": values["num_attention_heads"],
        "n_layer": values["num_hidden_layers"],
        "n_inner": None,
        "n_positions": values["max_position_embeddings"],
        "rotary_dim": int(0.4 * values["hidden_size"] / values["num_attention_heads"]),
        "vocab_size": values["vocab_size"],
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
    }
    (folder / "config.json").write_text(json.dumps(old))
    expected = logits(CASE)
    assert torch.equal(logits(case, "language_model=weights/phi-2-native"), expected)


def test_todays_layout_gives_the_same_logits() -> None:
    assert torch.equal(logits(CASE, "language_model=weights/phi-2-native"), logits(CASE))


def rewrite_stage(case: Path, change: Callable[[Tensors], Tensors]) -> None:
    content = torch.load(case / STAGE, weights_only=True)
    content["model"] = change(dict(content["model"]))
    torch.save(content, case / STAGE)


def test_newer_peft_names_give_the_same_logits(case: Path) -> None:
    rewrite_stage(case, lambda t: {n.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): v
                                   for n, v in t.items()})  # fmt: skip
    assert torch.equal(logits(case), logits(CASE))


def test_a_stage_file_without_lora_loads(case: Path) -> None:
    """Stage 1 as the paper describes it; names then lack peft's prefix."""
    rewrite_stage(case, lambda t: {n.replace("base_model.model.", ""): v for n, v in t.items() if "lora" not in n})
    assert not torch.allclose(logits(case, "lora_rank=null"), logits(CASE))
    with pytest.raises(CheckpointMismatch, match=r"Stage3.pth has no LoRA tensors .*although lora_rank is 8"):
        logits(case)


def test_a_trained_qformer_in_the_stage_file_wins(case: Path) -> None:
    queries = torch.load(case / "weights" / "blip2_pretrained_flant5xxl.pth", weights_only=True)["model"][
        "query_tokens"
    ]
    rewrite_stage(case, lambda t: t | {"query_tokens": queries + 1})
    model = load_model(case / "config.yaml", device="cpu", report=None)
    assert torch.equal(model.connector.get_parameter("query_tokens"), queries + 1)


def test_missing_norms_are_refused_rather_than_made_up(case: Path) -> None:
    rewrite_stage(case, lambda t: {n: v for n, v in t.items() if "q_layernorm" not in n})
    with pytest.raises(
        CheckpointMismatch,
        match=r"Stage3.pth: .*without weights \(first: llama_model.*layers.0.self_attn.q_layernorm.weight\)",
    ):
        logits(case)


def test_another_language_model_is_refused(case: Path) -> None:
    (case / "weights" / "phi-2" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ConfigError, match="needs Phi-2, found 'llama'"):
        logits(case)


@given(heads=st.integers(1, 5), width=st.integers(1, 4), columns=st.integers(1, 3))
def test_splitting_fused_rows_is_reversible(heads: int, width: int, columns: int) -> None:
    q, k, v = (torch.randn(heads * width, columns) for _ in range(3))
    fused = join_interleaved(q, k, v, heads)
    assert torch.equal(fused[:width], q[:width])
    assert torch.equal(fused[width : 2 * width], k[:width])
    for part, expected in zip(split_interleaved(fused, heads), (q, k, v), strict=True):
        assert torch.equal(part, expected)
