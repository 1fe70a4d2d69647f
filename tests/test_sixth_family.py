"""A sixth family is one file in `models/families` and one YAML in `eval_configs`, with no other edit anywhere."""

from __future__ import annotations

import gc
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

import models.families
from app.page.components import build_demo
from engine.chat_engine import ChatEngine
from models.config import available_families
from models.conversation import Sampling
from models.loader import load_model
from models.parts.llava_vision import MlpProjector
from tests.paths import GOLDENS, ROOT
from tests.tiny_model import ask, picture

# gradio leaves event loops and their sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

FILES = ROOT / "tests" / "sixth_family"
VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 500,
    "initializer_range": 0.4,
}  # fmt: skip


@pytest.fixture(scope="module")
def yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML with random tiny weights beside it, in the format that this family is released in."""
    folder = tmp_path_factory.mktemp("eval_configs")
    weights = folder / "pretend-weights"
    weights.mkdir()
    shutil.copy(FILES / "pretend.yaml", folder)
    shutil.copy(next(GOLDENS.rglob("tokenizer.model")), weights)
    (weights / "config.json").write_text(json.dumps({"vision_config": VISION, "text_config": TEXT}))
    save_file(released_tensors(), weights / "model.safetensors")
    return folder / "pretend.yaml"


def released_tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    bridge = MlpProjector(vision_width=16, text_width=32).state_dict()
    names = {name: name.replace("projection.0", "first").replace("projection.2", "second") for name in bridge}
    tensors = {f"bridge.{names[name]}": tensor for name, tensor in bridge.items()}
    tensors |= {f"eye.{name}": t for name, t in CLIPVisionModel(CLIPVisionConfig(**VISION)).state_dict().items()}
    return tensors | LlamaForCausalLM(LlamaConfig(**TEXT)).state_dict()


@pytest.fixture
def sixth(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file is where families are found."""
    monkeypatch.setattr(models.families, "__path__", [*models.families.__path__, str(FILES)])
    importlib.invalidate_caches()
    yield
    sys.modules.pop("models.families.pretend", None)


@pytest.mark.usefixtures("sixth", "quick")
def test_it_loads_answers_and_has_its_task_on_the_page(yaml: Path) -> None:
    assert "pretend" in available_families()
    model = load_model(yaml, device="cpu", dtype="float32", report=None)
    assert (model.info.name, model.info.family, model.info.context_tokens) == ("Pretend VLM", "pretend", 128)
    assert torch.equal(model.text_embedding.weight, released_tensors()["model.embed_tokens.weight"])
    with ChatEngine(model) as engine:
        *_, answer = engine.stream(ask("[count] circles", picture(1)), Sampling(temperature=0, max_new_tokens=6))
        page = json.dumps(build_demo(engine).get_config_file(), default=str)
    gc.collect()  # gradio's, while its warnings are let through
    assert answer.finish_reason == "length"
    assert answer.num_new_tokens == 6
    assert answer.text
    assert "Count things" in page
    assert "Pretend VLM" in page


def test_the_command_line_lists_it(python: list[str], yaml: Path, tmp_path: Path) -> None:
    for name in ("demo.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("app", "engine", "models"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(FILES / "pretend.py", tmp_path / "models" / "families")
    shutil.copytree(yaml.parent, tmp_path / "eval_configs")
    command = [*python, "demo.py", "--list"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert listed.startswith("eval_configs/pretend.yaml  [ready]\n  Pretend VLM (pretend)\n")
