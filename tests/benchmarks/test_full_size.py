"""Random files in released formats, and the measurement of a model in a process of its own, at a small size."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from benchmarks import full_size, released_files
from benchmarks.released_files import Folder, Layout, releases
from models.config import available_families, load_config
from models.tensors.weights import read_tensors
from models.tokenizers.codegen import CodeGenTokenizer
from models.tokenizers.pieces import PieceTokenizer
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from models.tokenizers.tiktoken import TiktokenTokenizer
from tests.paths import ROOT

LAYOUT: Layout = {
    "layers.0.norm.weight": ((7,), torch.float16),
    "layers.0.linear.weight": ((300, 7), torch.float16),
    "layers.0.linear.bias": ((300,), torch.float32),
    "layers.0.lora_A.weight": ((8, 300), torch.float32),
    "position_ids": ((1, 5), torch.int64),
}


def check(tensors: Mapping[str, torch.Tensor], layout: Layout) -> None:
    """Every tensor is there, finite, and large enough for what follows not to vanish."""
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} == layout
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert torch.equal(tensors["layers.0.norm.weight"], torch.ones(7).half())
    assert tensors["layers.0.linear.weight"].float().std().item() == pytest.approx(7**-0.5, rel=0.1)
    assert 0 < tensors["layers.0.lora_A.weight"].abs().max() <= 0.02


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_pickle_has_its_layout(is_wrapped: bool, tmp_path: Path) -> None:
    released_files.write_pickle(tmp_path / "folder" / "file.pth", LAYOUT, is_wrapped=is_wrapped)
    content: dict[str, Any] = torch.load(tmp_path / "folder" / "file.pth", weights_only=True)
    assert ("model" in content) == is_wrapped
    check(read_tensors(tmp_path / "folder" / "file.pth"), LAYOUT)


@pytest.mark.parametrize("is_pickled", [False, True])
def test_a_folder_is_written_in_shards(is_pickled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released_files, "_SHARD", 5000)
    layout = {name: form for name, form in LAYOUT.items() if name != "position_ids"}
    Folder({"model_type": "llama"}, layout, lambda _: None, is_pickled).write(tmp_path / "folder")
    assert len(list((tmp_path / "folder").glob("*.bin" if is_pickled else "*.safetensors"))) == 3
    check(read_tensors(tmp_path / "folder"), layout)


def test_every_release_is_of_a_family_whose_yaml_names_its_places() -> None:
    """A new family is measured once it has a release there; it needs none to be a family."""
    known = releases()
    assert known.keys() <= set(available_families())
    for family, release in known.items():
        config = load_config(ROOT / "eval_configs" / f"{release.config}.yaml")
        assert config.family == family
        assert release.files.keys() == release.sizes.keys()
        assert release.files.keys() <= {value for value in vars(config).values() if isinstance(value, str)}


def test_tokenizers_have_as_many_pieces_as_the_released_ones(tmp_path: Path) -> None:
    folders = {family: tmp_path / family for family in ("llama", "gemma", "phi", "stablelm")}
    for folder in folders.values():
        folder.mkdir()
    released_files.llama_folder({**released_files.LLAMA_7B, "num_hidden_layers": 1}).tokenizer(folders["llama"])
    llama = SentencePieceTokenizer(folders["llama"] / "tokenizer.model")
    released_files._gemma_tokenizer(folders["gemma"])
    released_files._phi_tokenizer(folders["phi"])
    released_files._stablelm_tokenizer(folders["stablelm"])
    stablelm = TiktokenTokenizer(folders["stablelm"] / "arcade100k.tiktoken")
    made = (llama, PieceTokenizer(folders["gemma"]), CodeGenTokenizer(folders["phi"]), stablelm)
    assert [len(tokenizer) for tokenizer in made] == [32000, 256000, 50295, 100289]
    assert all(
        tokenizer.decode([n]) is not None for tokenizer in made for n in range(len(tokenizer) - 50, len(tokenizer))
    )


def test_a_model_is_measured_from_loading_to_its_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are there already are used: here those of the bundled model."""
    shutil.copytree(ROOT / "checkpoints" / "tiny_moe_llava", tmp_path / "LanguageBind/MoE-LLaVA-StableLM-1.6B-4e")
    tiny = yaml.safe_load((ROOT / "eval_configs" / "tiny_moe_llava.yaml").read_text(encoding="utf-8"))
    options = [f"vision_config.{key}={value}" for key, value in tiny.get("vision_config", {}).items()]
    passed = ["--options", *options] if options else []
    assert full_size.main(["moe_llava", "--folder", str(tmp_path), "--tokens", "3", *passed]) == 0
    printed = capsys.readouterr().out
    for text in ("0.0 GiB to write", "program", "loaded", "engine started", "image encoded", "answered"):
        assert text in printed
    for text in ("announced: Memory: ", "worst moment of loading: ", "first token after "):
        assert text in printed
    assert (tmp_path / "LanguageBind").exists()  # a folder that was named is kept


def test_without_room_on_the_disk_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**33))
    assert full_size.main(["minigpt4", "--folder", str(tmp_path)]) == 2
    assert "error: not enough room" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
