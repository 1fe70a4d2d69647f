"""Stage-1 files of Mini-Gemini: a base language model and an `mm_projector.bin`, with or without the towers inside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.config import load_config
from models.errors import CheckpointMismatch, CheckpointMissing, MiniVLMError
from models.families import mini_gemini
from models.loader import load_model
from models.preprocessing import CropAndResize, PadAndResize
from models.tensors.weights import Tensors, read_tensors
from models.vision_language_model import VisionLanguageModel
from tests.paths import GOLDENS, ROOT
from tests.recorded_case import Case

GOLDEN = GOLDENS / "mgm-7b"
WHOLE = GOLDEN / "weights" / "work_dirs" / "MGM" / "MGM-7B"
ZOO = GOLDEN / "weights" / "model_zoo" / "OpenAI"
YAML = """
family: mini_gemini
language_model: base
projector: stage1/mm_projector.bin
"""
# The golden's towers are not of the released sizes; without a folder of theirs the YAML must say so.
SIZES = """
vision_config: {hidden_size: 64, intermediate_size: 128, num_hidden_layers: 3, num_attention_heads: 4, image_size: 56}
"""


@pytest.fixture(scope="module")
def released() -> Tensors:
    return read_tensors(WHOLE)


@pytest.fixture
def folder(tmp_path: Path, released: Tensors) -> Path:
    """The golden model taken apart: base/ has the language model, stage1/ the rest, as training wrote it."""
    values = json.loads((WHOLE / "config.json").read_text())
    base = tmp_path / "base"
    base.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(WHOLE / name, base)
    plain = {key: value for key, value in values.items() if not key.startswith(("mm_", "image_", "tokenizer_"))}
    (base / "config.json").write_text(json.dumps(plain))
    tensors = dict(released)
    visual = {f"model.{name}": tensor for name, tensor in mini_gemini.take_visual(tensors).items()}
    save_file(tensors, base / "model.safetensors")
    stage1 = tmp_path / "stage1"
    stage1.mkdir()
    torch.save(visual, stage1 / "mm_projector.bin")
    own = {key: value for key, value in values.items() if key not in plain}
    (stage1 / "config.json").write_text(json.dumps(own | {"image_aspect_ratio": "square"}))
    (tmp_path / "stage1.yaml").write_text(YAML + SIZES)
    return tmp_path


def load(folder: Path) -> VisionLanguageModel:
    return load_model(folder / "stage1.yaml", device="cpu", dtype="float32", report=None)


def without_towers(folder: Path) -> None:
    file = folder / "stage1" / "mm_projector.bin"
    torch.save({k: v for k, v in read_tensors(file).items() if "vision_tower" not in k}, folder / "small.bin")
    shutil.move(folder / "small.bin", file)


def test_the_parts_make_the_same_model_as_the_whole_folder(folder: Path) -> None:
    model = load(folder)
    whole = load_model(GOLDEN / "config.yaml", device="cpu", dtype="float32", report=None)
    assert isinstance(model.image_processor, CropAndResize)  # what stage 1 was trained with
    assert isinstance(whole.image_processor, PadAndResize)
    expected = whole.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_projectors_folder_is_as_good_as_its_file(folder: Path) -> None:
    (folder / "stage1.yaml").write_text((YAML + SIZES).replace("/mm_projector.bin", ""))
    model = load(folder)
    assert model.image_processor == CropAndResize(128)  # its config.json is read, too


def test_stage_1_training_goes_on_from_a_stage_1_file(folder: Path) -> None:
    model, step = load(folder), Case(GOLDEN).step("stage1")
    assert model(**vars(step.make_batch(model))).loss.item() == pytest.approx(step.loss, abs=1e-5)


def test_a_projector_without_its_config_takes_the_sizes_of_stage_1(folder: Path) -> None:
    (folder / "stage1" / "config.json").unlink()
    model = load(folder)
    assert model.image_processor == CropAndResize(768)


def test_towers_come_from_their_folders_where_the_file_has_none(folder: Path) -> None:
    without_towers(folder)
    clip, convnext = sorted(ZOO.iterdir())
    (folder / "stage1.yaml").write_text(f"{YAML}vision_tower: {clip}\nvision_tower_aux: {convnext}\n")
    model = load(folder)
    assert {name.split(".")[0] for name in model.state_dict()} == {"vision_tower", "connector", "language_model"}


def test_without_any_tower_the_message_says_which_one_to_get(folder: Path) -> None:
    without_towers(folder)
    with pytest.raises(CheckpointMissing, match=r"holds no vision_tower.*openai/clip-vit-large-patch14-336"):
        load(folder)
    (folder / "stage1.yaml").write_text(f"{YAML}vision_tower: {min(ZOO.iterdir())}\n")
    with pytest.raises(CheckpointMissing, match=r"holds no vision_tower_aux.*CLIP-convnext_large_d_320"):
        load(folder)


def test_a_projector_of_another_size_is_refused(folder: Path) -> None:
    file = folder / "stage1" / "mm_projector.bin"
    tensors = {name: tensor.clone() for name, tensor in read_tensors(file).items()}
    tensors["model.mm_projector.2.bias"] = torch.zeros(128)
    torch.save(tensors, file)
    with pytest.raises(CheckpointMismatch, match=r"mm_projector\.2\.bias is \[128\].*needs \[96\].*Was it trained for"):
        load(folder)


@pytest.mark.parametrize("lost", ["model.mm_projector.0.weight", "model.vlm_uni_val_projector.1.bias"])
def test_a_projector_with_a_tensor_missing_is_refused(folder: Path, lost: str) -> None:
    file = folder / "stage1" / "mm_projector.bin"
    tensors = {name: tensor.clone() for name, tensor in read_tensors(file).items() if name != lost}
    torch.save(tensors, file)
    with pytest.raises(CheckpointMismatch, match="1 parameters without weights"):
        load(folder)


def test_a_projector_over_a_whole_model_is_refused(folder: Path) -> None:
    (folder / "stage1.yaml").write_text(YAML.replace("base", str(WHOLE)))
    with pytest.raises(CheckpointMismatch, match="whole MGM model already; leave the key projector out"):
        load(folder)


def test_a_base_model_without_a_projector_is_refused(folder: Path) -> None:
    (folder / "stage1.yaml").write_text("family: mini_gemini\nlanguage_model: base\n")
    with pytest.raises(CheckpointMismatch, match="no patch info mining"):
        load(folder)


def test_a_projector_of_another_family_is_refused(folder: Path) -> None:
    torch.save({"model.mm_projector.0.weight": torch.zeros(96, 64)}, folder / "stage1" / "mm_projector.bin")
    with pytest.raises(MiniVLMError, match="no patch info mining"):
        load(folder)


def test_the_shipped_configuration_names_the_released_files() -> None:
    root = ROOT
    config = load_config(root / "eval_configs" / "mgm_7b_stage1.yaml")
    assert isinstance(config, mini_gemini.Config)
    assert config.projector == "MGM-Pretrain/MGM-7B/mm_projector.bin"
