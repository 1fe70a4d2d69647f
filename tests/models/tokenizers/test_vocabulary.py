"""A tokenizer that belongs to other weights, or is not whole, is refused; none of them ever fails to decode."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from models.config import family_module, load_config
from models.errors import CheckpointCorrupt, CheckpointMismatch, MiniVLMError
from models.files.released import ReleasedFiles
from models.loader import load_model
from models.tokenizers.codegen import CodeGenTokenizer
from models.tokenizers.vocabulary import check_vocabulary
from models.vision_language_model import Tokenizer
from tests.paths import GOLDENS

CASES = sorted(path.parent.name for path in GOLDENS.glob("*/config.yaml"))
PHI = GOLDENS / "moe-llava-phi2" / "weights" / "MoE-LLaVA-Phi2-2.7B-4e"
PHI_WITH_JSON = GOLDENS / "tinygptv-stage3" / "weights" / "phi-2"


def tokenizer_of(case: str) -> Tokenizer:
    config = load_config(GOLDENS / case / "config.yaml")
    tokenizer: Tokenizer = family_module(config.family, source=case).tokenizer(ReleasedFiles(config))
    return tokenizer


@pytest.mark.parametrize("case", CASES)
def test_decoding_never_raises(case: str) -> None:
    tokenizer = tokenizer_of(case)
    ids = tokenizer.encode("a red square")
    for stranger in (len(tokenizer), len(tokenizer) + 1, 10**6, 2**40, -1, -7):
        assert tokenizer.decode([stranger]) == ""
        assert tokenizer.decode([stranger, *ids, stranger]) == tokenizer.decode(ids)
    assert all(isinstance(tokenizer.decode([i]), str) for i in range(len(tokenizer)))


@pytest.mark.parametrize(
    ("case", "rows", "fits"),
    [
        ("minigpt4-vicuna0", 441, True),  # as recorded: one row without a piece
        ("minigpt4-vicuna0", 439, False),
        ("minigpt4-vicuna0", 450, False),
        ("mgm-7b", 500, False),
        ("moe-llava-phi2", 512, True),  # as recorded
        ("moe-llava-phi2", 430, False),
        ("moe-llava-phi2", 900, False),
    ],
)
def test_pieces_and_rows(case: str, rows: int, fits: bool) -> None:
    if fits:
        check_vocabulary(tokenizer_of(case), rows, source="here")
        return
    with pytest.raises(CheckpointMismatch, match=rf"here: its tokenizer has 4.. pieces, but .* {rows} rows"):
        check_vocabulary(tokenizer_of(case), rows, source="here")


def test_it_is_checked_before_anything_is_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.loader.materialise", lambda *_, **__: pytest.fail("weights were loaded first"))
    shutil.copytree(GOLDENS / "minigpt4-vicuna0", tmp_path / "case")
    other = GOLDENS / "minigpt_v2" / "weights" / "llama2-chat" / "tokenizer.model"
    shutil.copy(other, tmp_path / "case" / "weights" / "vicuna")
    with pytest.raises(CheckpointMismatch, match=r"weights/vicuna: its tokenizer has 500 pieces, .* 441 rows"):
        load_model(tmp_path / "case" / "config.yaml", device="cpu", report=None)


def halve_merges_txt(folder: Path) -> None:
    lines = (folder / "merges.txt").read_text().splitlines()
    (folder / "merges.txt").write_text("\n".join(lines[: len(lines) // 2]) + "\n")


def halve_merges_of_json(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][: len(content["model"]["merges"]) // 2]
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("source", "damage", "file"),
    [
        (PHI, halve_merges_txt, "merges.txt"),
        (PHI, lambda folder: (folder / "merges.txt").unlink(), "merges"),
        (PHI, lambda folder: (folder / "vocab.json").write_text("{"), ""),
        (PHI_WITH_JSON, halve_merges_of_json, "tokenizer.json"),
    ],
)
def test_half_a_tokenizer_of_byte_pairs_is_refused(
    source: Path, damage: Callable[[Path], object], file: str, tmp_path: Path
) -> None:
    for path in [*source.glob("*.json"), *source.glob("*.txt")]:
        shutil.copy(path, tmp_path)
    CodeGenTokenizer(tmp_path)
    damage(tmp_path)
    with pytest.raises(MiniVLMError, match=f"{file}.*download it again") as error:
        CodeGenTokenizer(tmp_path)
    assert isinstance(error.value, CheckpointCorrupt)
    assert "\n" not in str(error.value)
