"""Damaged, foreign and dangerous files: each refused in one line that says what to do, with nothing allocated."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.errors import (
    CheckpointCorrupt,
    CheckpointMismatch,
    CheckpointMissing,
    ConfigError,
    MiniVLMError,
    NotEnoughMemory,
)
from models.loader import load_model

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


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


CHECKPOINT, EVA, LLM = "weights/minigptv2_checkpoint.pth", "weights/eva_vit_g.pth", "weights/llama2-chat"
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
    "empty checkpoint": (lambda d: (d / CHECKPOINT).write_bytes(b""), CheckpointCorrupt, "0 bytes"),
    "a web page": (lambda d: (d / CHECKPOINT).write_text("<!DOCTYPE html>"), CheckpointCorrupt, "web page"),
    "a git-lfs pointer": (
        lambda d: (d / EVA).write_text("version https://git-lfs.github.com/spec/v1\n"),
        CheckpointCorrupt,
        "git-lfs pointer",
    ),
    "text": (lambda d: (d / CHECKPOINT).write_text("hello"), CheckpointCorrupt, "download it again"),
    "a pickle with code": (
        lambda d: torch.save({"model": Code()}, d / CHECKPOINT),
        CheckpointCorrupt,
        "could run code",
    ),
    "not a state dict": (lambda d: torch.save([1, 2], d / CHECKPOINT), CheckpointCorrupt, "no state dict"),
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
    "missing block": (lambda d: edit(d / EVA, drop("blocks.1.mlp")), CheckpointMismatch, "parameters without weights"),
    "wrong size in the tower": (
        lambda d: edit(d / EVA, resize("blocks.0.mlp.fc1.bias", 5)),
        CheckpointMismatch,
        r"mlp.fc1.bias is \[5\], but the vision tower needs \[209\]",
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


def load(case: Path, *overrides: str, quantization: str | None = None) -> None:
    overrides = ("device=cpu", *overrides)
    load_model(case / "config.yaml", quantization=quantization, overrides=overrides, report=lambda _: None)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_refused_in_one_line(case: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, error_class, message = FAULTS[fault]
    monkeypatch.chdir(case)
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
        ("family=minigpt4", ConfigError, "unknown key 'lora_alpha'"),
    ],
)
def test_a_wrong_setting_is_explained(case: Path, override: str, error_class: type[MiniVLMError], message: str) -> None:
    with pytest.raises(error_class, match=message):
        load(case, override)


def test_too_little_memory_is_said_before_loading(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.devices.free_bytes", lambda _: 1000)
    monkeypatch.setattr("models.loader.materialise", lambda *_, **__: pytest.fail("allocated all the same"))
    with pytest.raises(NotEnoughMemory, match="Try --options quantization=8bit"):
        load(case)
    with pytest.raises(NotEnoughMemory, match="Try --options quantization=4bit"):
        load(case, quantization="8bit")


def test_newer_peft_names_load_too(case: Path) -> None:
    edit(case / CHECKPOINT, lambda t: t.update({n.replace("_A.w", "_A.default.w"): t.pop(n) for n in list(t)}))
    load(case)
