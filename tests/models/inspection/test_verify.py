"""What `verify` says of right and wrong files: told by content, before anything is loaded, as loading then does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.loader import load_model
from models.tensors.weights import read_tensors
from tests.models.inspection.verifying import STAGE4, TINY, verify
from tests.paths import ROOT

Edit = Callable[[Path], object]


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in read_tensors(path).items()}  # the file itself is overwritten
    torch.save(change(tensors), path)


def test_right_files_are_named_and_fit(tinygpt_v: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = verify(tinygpt_v, capsys)
    assert status == 0
    for line in (
        "a language model of 5 layers, width 128, 1024 pieces",
        "an EVA vision tower of 6 blocks, width 160",
        "BLIP-2's Q-Former",
        "a TinyGPT-V stage file: projections, norms, LoRA of rank 8",
        "The files belong together",
        "Memory for the weights: float32 14 MiB, 16 bit 7 MiB",
        "Free on cpu: ",
        f"Serve it: python demo.py --cfg-path {tinygpt_v} --device cpu",
    ):
        assert line in out


@pytest.mark.parametrize("name", ["tiny_minigpt_v2", "tiny_minigpt4", "tiny_mini_gemini", "tiny_moe_llava"])
def test_every_family_is_verified(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = verify(ROOT / "eval_configs" / f"{name}.yaml", capsys)
    assert status == 0
    assert "The files belong together" in out


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "state_dict": lambda t: {"state_dict": t, "epoch": 3},
    "model_state_dict": lambda t: {"model_state_dict": t, "config": {"a": 1}},
    "model and optimizer": lambda t: {"model": t, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "epoch": 1},
    "module.": lambda t: {f"module.{name}": tensor for name, tensor in t.items()},
    "model, module.": lambda t: {"model": {f"module.{name}": tensor for name, tensor in t.items()}},
    "torch.compile": lambda t: {"model": {f"_orig_mod.{name}": tensor for name, tensor in t.items()}},
    "FSDP": lambda t: {name.replace(".layers.", "._fsdp_wrapped_module.layers."): tensor for name, tensor in t.items()},
    "model in state_dict": lambda t: {"state_dict": {"model": t}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_files_are_read_and_named(wrapping: str, tinygpt_v: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(tinygpt_v.parent / "tiny_tinygpt_v" / STAGE4, WRAPPINGS[wrapping])
    status, out, _ = verify(tinygpt_v, capsys)
    assert status == 0
    if "module." in wrapping:
        assert "names begin with module. (DataParallel)" in out
    if wrapping in ("torch.compile", "FSDP"):
        assert "names have parts of wrappers in them (torch.compile, FSDP), which loading takes off" in out
    if "optimizer" in wrapping:
        assert "beside the weights: epoch, optimizer" in out
    load_model(tinygpt_v, device="cpu", report=None)


def folder_of(yaml: Path) -> Path:
    return yaml.parent / "tiny_tinygpt_v"


def test_shards_without_an_index_are_read(tinygpt_v: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phi = folder_of(tinygpt_v) / "phi-2"
    tensors = load_file(phi / "model.safetensors")
    names = sorted(tensors)
    for number, part in enumerate((names[:20], names[20:]), 1):
        save_file({name: tensors[name] for name in part}, phi / f"model-{number:05}-of-00002.safetensors")
    (phi / "model.safetensors").unlink()
    status, out, _ = verify(tinygpt_v, capsys)
    assert status == 0
    assert "shards without their index" in out
    load_model(tinygpt_v, device="cpu", report=None)
    (phi / "model-00001-of-00002.safetensors").unlink()
    status, _, error = verify(tinygpt_v, capsys)
    assert status == 2
    assert "1 of 2 weight files are missing (first: number 1), and their index; finish the download." in error


class Whole(nn.Module):
    """A model that was pickled whole."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def write_index(folder: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def make_training_checkpoint(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "trainer_state.json").write_text('{"global_step": 100}')


def make_adapter(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "lmsys/vicuna-7b-v1.5", "r": 8}')
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file({name.format("A"): torch.ones(8, 4)}, folder / "adapter_model.safetensors")


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)


def link_to_nowhere(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to("nowhere")


def without_lora(path: Path) -> None:
    rewrite(path, lambda t: {"model": {n: v for n, v in t.items() if "lora_" not in n}})


WRONG: dict[str, tuple[str, Edit, list[str]]] = {
    "cut .pth": (STAGE4, cut, ["truncated or damaged; delete it and download it again"]),
    "cut safetensors": ("phi-2/model.safetensors", cut, ["but its header promises", "download it again"]),
    "empty file": (STAGE4, lambda p: p.write_bytes(b""), [STAGE4]),
    "no tensors": (STAGE4, lambda p: torch.save({"model": {}}, p), [f"{STAGE4} holds no tensors; delete it and"]),
    "safetensors without tensors": ("phi-2/model.safetensors", lambda p: save_file({}, p), ["phi-2 holds no tensors"]),
    "a tensor twice": (
        STAGE4,
        lambda p: rewrite(p, lambda t: t | {f"_orig_mod.{name}": tensor for name, tensor in t.items()}),
        ["has tensors twice, wrapped and not"],
    ),
    "cut config.json": (
        "phi-2/config.json",
        lambda p: p.write_text(p.read_text()[:100]),
        ["config.json can't be used (", "); correct it, or download it again."],
    ),
    "broken link": (
        "phi-2",
        link_to_nowhere,
        ["phi-2 is a link to nowhere, where nothing is; mend it or delete it"],
    ),
    "git-lfs pointer": (
        "eva_vit_g.pth",
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        ["eva_vit_g.pth is a git-lfs pointer, not the file; run git lfs pull"],
    ),
    "web page": (STAGE4, lambda p: p.write_text("<!DOCTYPE html><html>"), ["is a web page"]),
    "pickled model": (
        STAGE4,
        lambda p: torch.save(Whole(), p),
        ["is a whole pickled model (tests.models.inspection.test_verify.Whole)", "re-save it"],
    ),
    "another file": (
        STAGE4,
        lambda p: shutil.copy(p.with_name("eva_vit_g.pth"), p),
        ["an EVA vision tower of 6 blocks", "has no llama_proj.weight; it is not a TinyGPT-V stage file"],
    ),
    "checkpoint of MiniGPT-v2": (
        STAGE4,
        lambda p: shutil.copy(TINY / "tiny_minigpt_v2" / "minigptv2_checkpoint.pth", p),
        ["MiniGPT-v2's projection and LoRA of rank 8", "it is not a TinyGPT-V stage file"],
    ),
    "no LoRA": (STAGE4, without_lora, ["projections, norms, no LoRA", "has no LoRA tensors"]),
    "half of a LoRA": (
        STAGE4,
        lambda p: rewrite(p, lambda t: {"model": {n: v for n, v in t.items() if "lora_B" not in n}}),
        ["of a LoRA pair only one matrix is there"],
    ),
    "missing shards": ("phi-2", write_index, ["2 of 2 weight files are missing", "finish the download"]),
    "no weights": ("phi-2/model.safetensors", Path.unlink, ["phi-2 holds no model weights"]),
    "no tokenizer": ("phi-2", without_tokenizer, ["vocab.json"]),
    "training checkpoint": (
        "phi-2",
        make_training_checkpoint,
        ["a training checkpoint of step 100", "has no config.json; it is a training checkpoint"],
    ),
    "LoRA adapter": (
        "phi-2",
        make_adapter,
        ["a LoRA adapter of lmsys/vicuna-7b-v1.5, rank 8", "it is a LoRA adapter (adapter_config.json); merge it"],
    ),
    "two language models": (
        "phi-2/config.json",
        lambda p: p.write_text(p.read_text().replace('"num_hidden_layers": 5', '"num_hidden_layers": 6')),
        ["LoRA pairs are missing"],
    ),
    "no file": ("eva_vit_g.pth", Path.unlink, ["vision_tower", "missing"]),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_files_are_named(fault: str, tinygpt_v: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, edit, expected = WRONG[fault]
    edit(folder_of(tinygpt_v) / name)
    status, out, error = verify(tinygpt_v, capsys)
    assert status == 2
    assert error.startswith("error: ")
    for text in expected:
        assert text in out + error


def uploads() -> Iterator[tuple[str, Callable[[dict[str, Tensor]], object], list[str]]]:
    """The three files that were published as TinyGPT-V's stage 4, by what is in them."""
    moments = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-5}]}
    query = {"query_tokens": torch.zeros(1, 32, 128)}
    yield "now", lambda t: {"model": t}, ["LoRA of rank 8"]
    yield (
        "December 2023",
        lambda t: {"model": t | query, "optimizer": moments},
        ["LoRA of rank 8, and a trained Q-Former", "beside the weights: optimizer"],
    )
    yield "24 MB", lambda t: {"model": {n: v for n, v in t.items() if "lora_" not in n}}, ["norms, no LoRA"]


@pytest.mark.parametrize(("name", "make", "expected"), list(uploads()), ids=[name for name, _, _ in uploads()])
def test_three_uploads_of_stage_4_are_told_apart(
    name: str,
    make: Callable[[dict[str, Tensor]], object],
    expected: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = Path(shutil.copy(TINY / "tiny_tinygpt_v" / STAGE4, tmp_path / "whatever.bin"))
    rewrite(path, make)
    status, out, _ = verify(path, capsys)
    assert status == 0
    for text in expected:
        assert text in out
    assert name == "December 2023" or "Q-Former" not in out


def test_the_size_of_a_missing_file_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And all that are missing are in one line, each with an address."""
    status, out, error = verify(Path(shutil.copy(ROOT / "eval_configs" / "minigpt_v2.yaml", tmp_path)), capsys)
    assert status == 2
    assert "checkpoint: minigpt_v2/minigptv2_checkpoint.pth: missing (679,807,405 bytes)" in out
    assert "3 files are missing" in error
    assert "vision_tower: eva_vit_g.pth (https://storage.googleapis.com/" in error
    assert "python -m models fetch" in error


def test_nothing_at_all_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not found; give a YAML, a file or a folder." in verify(tmp_path / "nothing", capsys)[2]
