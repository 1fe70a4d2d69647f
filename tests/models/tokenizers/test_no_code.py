"""A tokenizer that brings code: the code never runs, and nobody is asked whether it may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.errors import CheckpointCorrupt
from models.tokenizers.pieces import open_tokenizer


@pytest.mark.parametrize("code_of", ["evil.EvilTok", "evil/repository--evil.EvilTok"], ids=["beside it", "on the hub"])
def test_code_in_a_checkpoint_never_runs(code_of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "it ran"
    code = f"open({str(marker)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast as EvilTok\n"
    (tmp_path / "evil.py").write_text(code)
    values = {"tokenizer_class": "EvilTok", "auto_map": {"AutoTokenizer": [code_of, None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    monkeypatch.setattr("builtins.input", lambda _: "y")  # whoever were asked would agree
    with pytest.raises(CheckpointCorrupt, match="never run"):
        open_tokenizer(tmp_path)
    assert not marker.exists()
