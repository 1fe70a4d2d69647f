"""Damaged, foreign and dangerous files: each refused in one line that says what to do, with nothing allocated."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from models.config import load_config
from models.conversation import Turn
from models.errors import (
    CheckpointCorrupt,
    CheckpointMismatch,
    CheckpointMissing,
    ConfigError,
    MiniVLMError,
    NotEnoughMemory,
)
from models.families import minigpt_v2
from models.files.released import ReleasedFiles
from models.loader import load_model
from models.memory.sizes import weight_bytes
from models.tensors.weights import read_tensors
from models.vision_language_model import VisionLanguageModel
from tests.paths import GOLDENS


class Code:
    """Something a pickle would run when it is opened."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    content = torch.load(path, weights_only=True)
    change(content.get("model", content))
    torch.save(content, path)


def resize(name: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.__setitem__(name, torch.zeros(shape))


def drop(pattern: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if pattern in name]


def with_end(token: str) -> Callable[[Path], object]:
    old, new = '"eos_token_id": 2', f'"eos_token_id": {token}'
    return lambda d: (file := d / LLM / "config.json").write_text(file.read_text().replace(old, new))


CHECKPOINT, EVA, LLM = "weights/minigptv2_checkpoint.pth", "weights/eva_vit_g.pth", "weights/llama2-chat"
NO_END = "llama2-chat: config.json has no eos_token_id"
SHARD = f"{LLM}/model-00001-of-00002.safetensors"

FAULTS: dict[str, tuple[Callable[[Path], object], type[MiniVLMError], str]] = {
    "missing checkpoint": (lambda d: (d / CHECKPOINT).unlink(), CheckpointMissing, "not found .*Download"),
    "missing shard": (lambda d: (d / SHARD).unlink(), CheckpointMissing, "1 of 2 weight files are missing"),
    "no weights in the folder": (
        lambda d: [path.rename(path.with_suffix(".x")) for path in (d / LLM).glob("*.safetensors*")],
        CheckpointMissing,
        "holds no model weights",
    ),
    "no config.json": (lambda d: (d / LLM / "config.json").unlink(), CheckpointMissing, "has no config.json"),
    "no tokenizer": (
        lambda d: (d / LLM / "tokenizer.model").unlink(),
        CheckpointMissing,
        r"tokenizer\.model not found",
    ),
    "broken config.json": (lambda d: (d / LLM / "config.json").write_text("{"), CheckpointCorrupt, "can't be used"),
    "another kind of language model": (
        lambda d: (d / LLM / "config.json").write_text(json.dumps({"model_type": "gpt2"})),
        ConfigError,
        "needs a Llama or Vicuna model, found 'gpt2'",
    ),
    "truncated checkpoint": (lambda d: truncate(d / CHECKPOINT), CheckpointCorrupt, "truncated or damaged"),
    "truncated tower": (lambda d: truncate(d / EVA), CheckpointCorrupt, "truncated or damaged"),
    "truncated shard": (lambda d: truncate(d / SHARD), CheckpointCorrupt, "download it again"),
    "empty checkpoint": (lambda d: (d / CHECKPOINT).write_bytes(b""), CheckpointCorrupt, "is empty; delete it"),
    "a web page": (lambda d: (d / CHECKPOINT).write_text("<!DOCTYPE html>"), CheckpointCorrupt, "web page"),
    "a git-lfs pointer": (
        lambda d: (d / EVA).write_text("version https://git-lfs.github.com/spec/v1\n"),
        CheckpointCorrupt,
        "git-lfs pointer",
    ),
    "text": (lambda d: (d / CHECKPOINT).write_text("hello"), CheckpointCorrupt, "download the file itself"),
    "a pickle with code": (
        lambda d: torch.save({"model": Code()}, d / CHECKPOINT),
        CheckpointCorrupt,
        "could run code",
    ),
    "not a state dict": (lambda d: torch.save([1, 2], d / CHECKPOINT), CheckpointCorrupt, "no state dict"),
    "a sparse tensor": (
        lambda d: edit(d / CHECKPOINT, lambda t: t.update({n: t[n].float().to_sparse() for n in list(t)[-1:]})),
        CheckpointCorrupt,
        r"is sparse, quantized or without values, .*download it again",
    ),
    "no end of text": (with_end("null"), ConfigError, f"{NO_END}, so no answer would end; download it again"),
    "an end of text that is no token": (with_end("999999"), ConfigError, NO_END),
    "no LoRA": (lambda d: edit(d / CHECKPOINT, drop("lora")), CheckpointMismatch, "no LoRA tensors"),
    "half of a LoRA": (
        lambda d: edit(d / CHECKPOINT, drop("0.self_attn.q_proj.lora_A")),
        CheckpointMismatch,
        "only one",
    ),
    "no projection": (lambda d: edit(d / CHECKPOINT, drop("llama_proj")), CheckpointMismatch, "no llama_proj"),
    "wrong language model size": (
        lambda d: edit(d / CHECKPOINT, resize("llama_proj.weight", 80, 192)),
        CheckpointMismatch,
        r"is \[80, 192\]: .*width 80.*width 64.*Pair them",
    ),
    "unknown tensor": (lambda d: edit(d / CHECKPOINT, resize("extra.weight", 2)), CheckpointMismatch, "extra.weight"),
    "a name of two lines": (
        lambda d: edit(d / CHECKPOINT, resize("extra\nweight", 2)),
        CheckpointMismatch,
        r"extra\\nw",
    ),
    "an entry that is no tensor": (
        lambda d: edit(d / CHECKPOINT, lambda t: t.update({"llama_proj.bias": [0.5]})),  # type: ignore[dict-item]
        CheckpointCorrupt,
        "holds no state dict .*, as llama_proj.bias is no tensor but of the type list",
    ),
    "a number for a name": (
        lambda d: edit(d / EVA, lambda t: t.update({7: torch.zeros(1)})),  # type: ignore[dict-item]
        CheckpointCorrupt,
        "holds no state dict .*, as 7 is no name",
    ),
    "missing block": (lambda d: edit(d / EVA, drop("blocks.1.mlp")), CheckpointMismatch, "parameters without weights"),
    "wrong size in the tower": (
        lambda d: edit(d / EVA, resize("blocks.0.mlp.fc1.bias", 5)),
        CheckpointMismatch,
        r"mlp.fc1.bias is \[5\], but the vision tower needs \[209\]",
    ),
    "as many values in another shape": (
        lambda d: edit(d / EVA, resize("blocks.0.mlp.fc1.weight", 48, 209)),
        CheckpointMismatch,
        r"mlp.fc1.weight is \[48, 209\], but the vision tower needs \[209, 48\]",
    ),
    "missing language model tensor": (
        lambda d: save_file({k: v for k, v in load_file(d / SHARD).items() if "embed" not in k}, d / SHARD),
        CheckpointMismatch,
        r"language model: 1 parameters without weights \(first: model.embed_tokens.weight\)",
    ),
}


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDENS / "minigpt_v2", tmp_path / "case"))


def load(case: Path, *overrides: str, quantization: str | None = None) -> VisionLanguageModel:
    overrides = ("device=cpu", *overrides)
    return load_model(case / "config.yaml", quantization=quantization, overrides=overrides, report=None)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_refused_in_one_line(case: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, error_class, message = FAULTS[fault]
    monkeypatch.chdir(case)
    monkeypatch.setattr("models.loader.materialise", lambda *_, **__: pytest.fail("weights were loaded first"))
    damage(case)
    with pytest.raises(error_class, match=message) as error:
        load(case)
    assert "\n" not in str(error.value)
    assert not (case / "pwned").exists()


@pytest.mark.parametrize(
    ("override", "error_class", "message"),
    [
        ("lora_rank=64", CheckpointMismatch, "LoRA has rank 6, but lora_rank is 64"),
        ("vision_config.num_hidden_layers=9", CheckpointMismatch, "parameters without weights"),
        ("vision_config.hidden_size=96", CheckpointMismatch, "llama_proj.weight takes 192 values"),
        ("device=cuda:99", ConfigError, "CUDA GPUs; use --device cpu"),
        ("device=tpu9", ConfigError, "use auto, cpu, mps, cuda"),
        ("device=meta", ConfigError, "use auto, cpu, mps, cuda"),
        ("device=xpu", ConfigError, "use auto, cpu, mps, cuda"),
        ("family=minigpt4", ConfigError, "unknown key 'lora_alpha'"),
        ("vision_config.layer_norm_epz=0.9", ConfigError, r"vision_config: unknown key 'layer_norm_epz'; known .*_eps"),
        ("vision_config.hidden_size=abc", ConfigError, r"config.yaml: vision_config: .*'hidden_size' expected int"),
        ("vision_config.num_hidden_layers=0", ConfigError, "num_hidden_layers is 0; it must be at least 1"),
        ("vision_config.num_attention_heads=7", ConfigError, "eva_vit_g.pth: no vision tower can be made .*divisible"),
        ("vision_config.hidden_act=foo", ConfigError, "no vision tower can be made .*'foo' is missing or unknown"),
        ("vision_config.patch_size=0", ConfigError, "112 px can't be cut into patches of 0"),
        ("image_size=0", ConfigError, "0 px can't be cut into patches of 14"),
        ("image_size=-144", ConfigError, "can't be cut"),
        ("image_size=70", ConfigError, "70 px has 25 patches; image_size must give a multiple of 4"),
        ("context_tokens=-5", ConfigError, "context_tokens is -5; it must be more than 0"),
        ("context_tokens=0", ConfigError, "context_tokens is 0; it must be more than 0"),
    ],
)
def test_a_wrong_setting_is_explained(case: Path, override: str, error_class: type[MiniVLMError], message: str) -> None:
    with pytest.raises(error_class, match=message) as error:
        load(case, override)
    assert "\n" not in str(error.value)


def test_a_context_too_short_for_any_question_is_refused(case: Path) -> None:
    model = load(case)
    shortest = len(model.embed_prompt([Turn("user", "?", (Image.new("RGB", (8, 8)),))]))
    load(case, f"context_tokens={shortest + 1}")
    for context in (shortest, 10):
        with pytest.raises(ConfigError, match=rf"config.yaml: context_tokens is {context}, but .* takes {shortest} "):
            load(case, f"context_tokens={context}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("qformer_config.hidden_sizes=130", r"qformer_config: unknown key 'hidden_sizes'; known keys: .*hidden_size,"),
        ("qformer_config.num_attention_heads=0", "no Q-Former can be made from its configuration"),
        ("num_query_tokens=-3", "no Q-Former can be made from its configuration"),
    ],
)
def test_a_wrong_setting_of_the_q_former_is_explained(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(GOLDENS / "minigpt4-vicuna0", override)


@pytest.mark.parametrize(
    ("dtype", "quantization", "fitting", "advice"),
    [
        ("float32", "none", "bfloat16 none", "Try --options dtype=bfloat16, or"),
        ("float32", "none", "bfloat16 8bit", "Try --options quantization=8bit dtype=bfloat16, or"),
        ("bfloat16", "none", "bfloat16 8bit", "Try --options quantization=8bit, or"),
        ("bfloat16", "none", "bfloat16 4bit", "Try --options quantization=4bit, or"),
        ("bfloat16", "8bit", "bfloat16 4bit", "Try --options quantization=4bit, or"),
        ("float16", "4bit", "nothing", "not enough for any setting. Use a device with more memory"),
        ("float32", "none", "nothing", "not enough for any setting. Use a device with more memory"),
    ],
)
def test_too_little_memory_is_said_before_loading_with_what_would_fit(
    case: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, quantization: str, fitting: str, advice: str
) -> None:
    free = 1000
    if fitting != "nothing":
        other_dtype, other_quantization = fitting.split()
        config = load_config(case / "config.yaml")
        assert isinstance(config, minigpt_v2.Config)
        parts = minigpt_v2.parts(config, ReleasedFiles(config)).values()
        free = int(weight_bytes(parts, getattr(torch, other_dtype), other_quantization) * 1.06)
    monkeypatch.setattr("models.devices.free_bytes", lambda _: free)
    monkeypatch.setattr("models.loader.materialise", lambda *_, **__: pytest.fail("allocated all the same"))
    with pytest.raises(NotEnoughMemory, match=advice):
        load(case, f"dtype={dtype}", quantization=quantization)


def test_newer_peft_names_give_the_same_weights(case: Path) -> None:
    expected = load(case).language_model.state_dict()
    name = re.compile(r"(\.lora_[AB])\.weight$")
    edit(case / CHECKPOINT, lambda t: t.update({name.sub(r"\1.default.weight", n): t.pop(n) for n in list(t)}))
    assert any(".lora_B.default." in key for key in torch.load(case / CHECKPOINT, weights_only=True)["model"])
    found = load(case).language_model.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_weights_in_both_formats_are_read_from_safetensors(tmp_path: Path) -> None:
    """After a download there is an index of pickled shards, which were left out."""
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"w": "pytorch_model-1.bin"}}))
    assert torch.equal(read_tensors(tmp_path)["w"], torch.ones(2))
    torch.save({"w": torch.zeros(2)}, tmp_path / "pytorch_model-1.bin")
    assert torch.equal(read_tensors(tmp_path)["w"], torch.ones(2))
