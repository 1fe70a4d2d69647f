"""Settings of a tokenizer that are none: whatever stands where, it is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.errors import CheckpointCorrupt
from models.families import moe_llava
from models.tokenizers.codegen import CodeGenTokenizer
from models.tokenizers.pieces import PieceTokenizer
from tests.paths import ROOT

PIECES, CODEGEN = ROOT / "checkpoints" / "tiny_mini_gemini", ROOT / "checkpoints" / "tiny_tinygpt_v" / "phi-2"


def changed(source: Path, folder: Path, file: str, **values: Any) -> Path:
    """A copy of a folder's tokenizer with other settings in one of its files."""
    for name in ("tokenizer.model", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", file):
        if (source / name).is_file():
            shutil.copy(source / name, folder)
    kept = json.loads((folder / file).read_text(encoding="utf-8")) if (folder / file).is_file() else {}
    (folder / file).write_text(json.dumps(kept | values), encoding="utf-8")
    return folder


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("kind", [PieceTokenizer, CodeGenTokenizer])
def test_a_length_that_is_none(kind: Any, file: str, tmp_path: Path) -> None:
    folder = changed(PIECES if kind is PieceTokenizer else CODEGEN, tmp_path, file, model_max_length="float16")
    with pytest.raises(CheckpointCorrupt, match="tokenizer can't be used"):
        kind(folder)


def test_a_token_that_is_none(tmp_path: Path) -> None:
    folder = changed(CODEGEN, tmp_path, "special_tokens_map.json", unk_token={"a": 1}, auto_map=[1])
    with pytest.raises(CheckpointCorrupt, match="tokenizer can't be used"):
        CodeGenTokenizer(folder)


@pytest.mark.parametrize("values", [{"eos_token": "1"}, {"eos_token": [None]}, {"added_tokens_decoder": {"x": 5}}])
def test_an_end_that_is_no_token(values: dict[str, Any], tmp_path: Path) -> None:
    folder = changed(PIECES, tmp_path, "tokenizer_config.json", legacy=True, **values)

    class Files:
        def path(self, _: str) -> Path:
            return folder

        def source(self, _: str) -> str:
            return str(folder)

        def config_values(self, _: str) -> dict[str, Any]:
            return {"model_type": "mistral"}

        def read_json(self, file: Path) -> dict[str, Any]:
            return dict(json.loads(file.read_text())) if file.is_file() else {}

    with pytest.raises(CheckpointCorrupt, match="tokenizer can't be used"):
        moe_llava.tokenizer(Files())  # type: ignore[arg-type]
