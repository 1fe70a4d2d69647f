"""Where tensors come from, through every renaming and conversion, and where a missing one should be."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.config import family_module, load_config
from models.errors import CheckpointCorrupt
from models.files.released import ReleasedFiles
from models.tensors import origins
from models.tensors.completeness import file_of, origin
from models.tensors.origins import Origin, joined, made_from, origin_of, recorded
from models.tensors.weights import Rename, read_tensors, rename, renamed_from
from tests.paths import GOLDENS, ROOT

CONFIGS = [*sorted(GOLDENS.glob("*/config.yaml")), *sorted((ROOT / "eval_configs").glob("tiny_*.yaml"))]
NOWHERE = Origin("", "")


@pytest.mark.parametrize("quantization", ["none", "4bit"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_tensor_is_where_a_missing_one_would_be_looked_for(path: Path, quantization: str) -> None:
    config = load_config(path, [f"quantization={quantization}"])
    compared = 0
    for part in family_module(config.family, source=path).parts(config, ReleasedFiles(config)).values():
        for name, tensor in part.tensors.items():
            found, wanted = origin(part, name), part.origin_of_name(name)
            if origin_of(tensor, NOWHERE) != NOWHERE and " or " not in found.name:
                assert (found.file, found.name) == (file_of(wanted), wanted.name), name
                compared += 1
    assert compared > 50


def test_a_rename_is_taken_back() -> None:
    rules = (
        Rename(r"^blocks\.(\d+)\.norm([12])\.", r"layers.\1.layer_norm\2."),
        Rename(r"\.gamma$", ".scale"),
        Rename(r"^vision_model\.", ""),
    )
    for name in ("vision_model.x.gamma", "vision_model.a"):
        (renamed,) = rename({name: torch.ones(1)}, rules)
        assert renamed_from(renamed, rules) == name
    assert renamed_from("layers.3.layer_norm2.bias", rules[:2]) == "blocks.3.norm2.bias"


def test_conversions_keep_the_origin() -> None:
    tensors = recorded({"a": torch.ones(6), "b": torch.ones(2)}, "file")
    assert [origin_of(part, NOWHERE).name for part in made_from(tensors["a"], *tensors["a"].chunk(3))] == ["a"] * 3
    both = joined(torch.cat((tensors["a"], tensors["b"])), tensors["a"], tensors["b"])
    assert origin_of(both, NOWHERE) == Origin("file", "a or b")
    assert origin_of(torch.ones(1), NOWHERE) == NOWHERE


def test_one_tensor_under_two_names_has_two_origins() -> None:
    tensor = torch.ones(2)
    tensors = recorded({"a": tensor, "b": tensor}, "file")
    assert [origin_of(tensors[name], NOWHERE).name for name in "ab"] == ["a", "b"]
    assert tensors["a"].data_ptr() == tensors["b"].data_ptr()


def test_what_is_gone_is_forgotten() -> None:
    before = len(origins._ORIGINS)
    tensors = recorded({"a": torch.ones(2)}, "file")
    assert len(origins._ORIGINS) == before + 1
    del tensors
    gc.collect()
    assert len(origins._ORIGINS) <= before


def test_saved_tensors_are_plain(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    torch.save(read_tensors(tmp_path / "a.pth"), tmp_path / "b.pth")
    assert read_tensors(tmp_path / "b.pth").keys() == {"a"}  # weights_only, so nothing but tensors is in it


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"w": torch.full((2,), float(number))}, tmp_path / f"model-{number}.safetensors")
    index = '{"weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointCorrupt, match=r"model-2.safetensors holds w, as .*model-1.safetensors does"):
        read_tensors(tmp_path)


def test_a_missing_tensor_of_a_sharded_folder_is_looked_for_in_its_shard() -> None:
    folder = GOLDENS / "minigpt_v2" / "weights" / "llama2-chat"
    place = Origin(str(folder), "model.embed_tokens.weight")
    assert file_of(place) == str(folder / "model-00001-of-00002.safetensors")
    assert file_of(Origin(str(folder), "unknown")) == str(folder)
