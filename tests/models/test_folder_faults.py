"""Damaged and foreign folders of Mini-Gemini and MoE-LLaVA: each refused in one line that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from models.errors import CheckpointCorrupt, CheckpointMismatch, CheckpointMissing, ConfigError, MiniVLMError
from models.loader import load_model
from models.tensors.weights import read_tensors
from tests.paths import GOLDENS

MGM, MGM_2B, PHI, STABLELM = "mgm-7b", "mgm-2b", "moe-llava-phi2", "moe-llava-stablelm"
FOLDERS = {
    MGM: "weights/work_dirs/MGM/MGM-7B",
    MGM_2B: "weights/work_dirs/MGM/MGM-2B",
    PHI: "weights/MoE-LLaVA-Phi2-2.7B-4e",
    STABLELM: "weights/MoE-LLaVA-StableLM-1.6B-4e",
}
TOKENIZERS = ("tokenizer.model", "tokenizer.json", "vocab.json", "merges.txt", "*.tiktoken")
UNREADABLE = r"(can't be read|truncated or damaged|not a PyTorch checkpoint).*download it again"
Damage = Callable[[Path], object]


def first_shard(folder: Path) -> Path:
    return min([*folder.glob("model-*.safetensors"), *folder.glob("pytorch_model-*.bin")])


def cut(path: Path, keep: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def for_each_tokenizer(folder: Path, damage: Callable[[Path], None]) -> None:
    for path in [path for pattern in TOKENIZERS for path in folder.glob(pattern)]:
        damage(path)


def change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


DAMAGES: dict[str, tuple[Damage, type[MiniVLMError], str]] = {
    "a missing shard": (
        lambda folder: first_shard(folder).unlink(),
        CheckpointMissing,
        r"1 of 3 weight files are missing \(first: \w*model-00001.*finish the download",
    ),
    "a truncated shard": (
        lambda folder: cut(first_shard(folder)),
        CheckpointCorrupt,
        UNREADABLE,
    ),
    "a shard cut within its header": (
        lambda folder: cut(first_shard(folder), keep=0.0001),
        CheckpointCorrupt,
        UNREADABLE,
    ),
    "an index that is a web page": (
        lambda folder: next(folder.glob("*.index.json")).write_text("<html>"),
        CheckpointCorrupt,
        "not a weight index; delete it and download it again",
    ),
    "no tokenizer": (
        lambda folder: for_each_tokenizer(folder, Path.unlink),
        CheckpointMissing,
        r"(has no tokenizer|not found).*download",
    ),
    "a truncated tokenizer": (
        lambda folder: for_each_tokenizer(folder, cut),
        CheckpointCorrupt,
        "tokenizer|tiktoken",
    ),
    "no config.json": (lambda folder: (folder / "config.json").unlink(), CheckpointMissing, "has no config.json"),
    "a config.json without keys": (
        lambda folder: (folder / "config.json").write_text("[1]"),
        CheckpointCorrupt,
        "holds no keys and values",
    ),
    "a config.json of another size": (
        lambda folder: change_config(folder, num_hidden_layers=3),
        CheckpointMismatch,
        r"does not fit the language model: \d+ weights without parameters .*belong together|experts in layer",
    ),
}


def copied(golden: str, tmp_path: Path) -> Path:
    """A copy of a golden case; returns its model folder."""
    shutil.copytree(GOLDENS / golden, tmp_path / "case")
    return tmp_path / "case" / FOLDERS[golden]


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.loader.materialise", lambda *_, **__: pytest.fail("weights were loaded first"))


def failure(tmp_path: Path, expected: type[MiniVLMError], message: str) -> str:
    with pytest.raises(expected, match=message) as error:
        load_model(tmp_path / "case" / "config.yaml", device="cpu", dtype="float32", report=None)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("golden", FOLDERS)
def test_a_damaged_folder_is_refused_in_one_line(golden: str, damage: str, tmp_path: Path) -> None:
    apply, expected, message = DAMAGES[damage]
    folder = copied(golden, tmp_path)
    apply(folder)
    assert folder.name in failure(tmp_path, expected, message)


WRONG_VALUES: list[tuple[str, dict[str, object], type[MiniVLMError], str]] = [
    (MGM, {"image_size_aux": None}, CheckpointMismatch, "image_size_aux None; it must be a multiple of 16"),
    (MGM, {"image_size_aux": 100}, CheckpointMismatch, "image_size_aux 100; it must be a multiple of 16"),
    (MGM, {"image_global": True}, CheckpointMismatch, "image_global without an image_grid"),
    (MGM, {"image_grid": -1}, CheckpointMismatch, "image_grid -1; it must be 1 or more"),
    (MGM, {"mm_vision_tower": 5}, ConfigError, r"config.json: its values can't be used"),
    (MGM, {"hidden_size": "big"}, ConfigError, r"config.json: its values can't be used .*'hidden_size' expected int"),
    (MGM, {"rope_scaling": {"type": "foo", "factor": 2}}, ConfigError, "no language model can be made .*'foo'"),
    (MGM, {"tokenizer_model_max_length": "2048"}, ConfigError, "max_length is '2048'; it must be a positive whole"),
    (PHI, {"tokenizer_model_max_length": -1}, ConfigError, "max_length is -1; it must be a positive whole number"),
    (PHI, {"mm_vision_select_layer": -99}, CheckpointMismatch, "3 layers, but mm_vision_select_layer is -99"),
    (PHI, {"mm_vision_select_layer": "x"}, ConfigError, r"config.json: its values can't be used"),
    (PHI, {"num_hidden_layers": 10**9}, ConfigError, "num_hidden_layers is 1000000000; no model has more than 1000"),
    (PHI, {"num_attention_heads": 0}, ConfigError, "no language model can be made"),
    (PHI, {"num_hidden_layers": None}, ConfigError, r"config.json: its values can't be used"),
    (STABLELM, {"moe": 5}, ConfigError, r"config.json: its values can't be used"),
    (STABLELM, {"moe": {"num_experts": [4], "capacity_factor": "x"}}, ConfigError, r"its values can't be used .*'x'"),
    (STABLELM, {"hidden_act": "foo"}, ConfigError, "no language model can be made .*'foo'"),
    (MGM, {"pad_token_id": 10**6}, ConfigError, "no language model can be made .*[Pp]adding"),
]


@pytest.mark.parametrize(("golden", "values", "expected", "message"), WRONG_VALUES, ids=str)
def test_a_wrong_value_of_config_json_is_explained(
    golden: str, values: dict[str, object], expected: type[MiniVLMError], message: str, tmp_path: Path
) -> None:
    folder = copied(golden, tmp_path)
    change_config(folder, **values)
    failure(tmp_path, expected, message)


def test_the_config_json_of_a_tower_is_named(tmp_path: Path) -> None:
    copied(PHI, tmp_path)
    tower = tmp_path / "case" / "weights" / "openai" / "clip-vit-large-patch14-336"
    values = json.loads((tower / "config.json").read_text())
    change_config(tower, vision_config=values["vision_config"] | {"intermediate_size": None})
    failure(
        tmp_path, ConfigError, r"clip-vit-large-patch14-336/config\.json: its values can't be used .*intermediate_size"
    )


@pytest.mark.parametrize(
    ("golden", "family", "message"),
    [
        (MGM, "moe_llava", r"its language model is 'mgm'; MoE-LLaVA has phi, stablelm, qwen and mistral"),
        (MGM_2B, "moe_llava", r"its language model is 'mgm_gemma'; MoE-LLaVA has phi"),
        (PHI, "mini_gemini", r"has no patch info mining \(vlm_uni_\*\), so it is not an MGM model"),
        (STABLELM, "mini_gemini", r"has no patch info mining"),
    ],
)
def test_a_yaml_of_another_family_is_explained(golden: str, family: str, message: str, tmp_path: Path) -> None:
    copied(golden, tmp_path)
    yaml = tmp_path / "case" / "config.yaml"
    text = yaml.read_text()
    yaml.write_text("\n".join(f"family: {family}" if line.startswith("family") else line for line in text.splitlines()))
    failure(tmp_path, CheckpointMismatch, message)


@pytest.mark.parametrize("golden", [PHI, STABLELM, MGM])
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_folder_without_a_known_name_says_what_it_has(golden: str, is_empty: bool, tmp_path: Path) -> None:
    """All of it under another name, or nothing at all."""
    folder = copied(golden, tmp_path)
    tensors = {} if is_empty else {f"wrapped.{name}": tensor for name, tensor in read_tensors(folder).items()}
    for file in (*folder.glob("*.safetensors*"), *folder.glob("*.bin*")):
        file.unlink()
    save_file(tensors, folder / "model.safetensors")
    found = "it holds no tensors" if is_empty else r"found wrapped\.\w+"
    failure(tmp_path, MiniVLMError, rf"{folder.name} has no.*{found}")


def test_a_named_tower_without_its_file_is_not_passed_over(tmp_path: Path) -> None:
    folder = copied(MGM, tmp_path)
    yaml = tmp_path / "case" / "config.yaml"
    kept = [line for line in yaml.read_text().splitlines() if not line.startswith("vision_tower_aux")]
    yaml.write_text("\n".join([*kept, f"vision_tower_aux: {folder}"]))
    failure(tmp_path, CheckpointMissing, r"vision_tower_aux is .*, which holds no open_clip_pytorch_model.bin")


def test_pictures_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / "minigpt_v2", tmp_path / "case")
    yaml = tmp_path / "case" / "config.yaml"
    kept = [line for line in yaml.read_text().splitlines() if not line.startswith("image_size")]
    yaml.write_text("\n".join([*kept, "image_size: 1000000"]))
    failure(tmp_path, ConfigError, r"images of 1000000 px have \d+ patches a side; at most 80")
