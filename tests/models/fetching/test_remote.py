"""`verify` before a download: the headers of weights on the hub say what they are, without their bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from models.__main__ import main
from tests.models.fetching.local_hub import Hub

WEIGHTS = {
    "model.embed_tokens.weight": torch.zeros(40, 2000, dtype=torch.bfloat16),
    "model.layers.0.mlp.up_proj.weight": torch.zeros(2000, 2000, dtype=torch.bfloat16),
}


def verify(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["verify", str(path)]) == 2  # nothing is here
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    return output.out


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_headers_are_read_and_weights_are_not(
    knows_ranges: bool, config: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.knows_ranges = knows_ranges
    names = list(WEIGHTS)
    for number, name in enumerate(names, 1):
        hub.files[f"someone/llama/model-0000{number}-of-00002.safetensors"] = save({name: WEIGHTS[name]})
    out = verify(config, capsys)
    assert "in 4 files, 2 of them weights" in out
    assert "a language model of 1 layers, width 2000, 40 pieces; 2 tensors in bfloat16" in out
    assert {wanted for wanted in hub.downloads("someone/llama/model-00002-of-00002.safetensors")} == {"bytes=0-99999"}


def test_what_can_not_be_read_is_said(config: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no safetensors header" in verify(config, capsys)  # the hub's are random bytes
    for name in [name for name in hub.files if name.endswith(".safetensors")]:
        del hub.files[name]
    assert "pickled weights" in verify(config, capsys)
    hub.refused["someone/llama"] = (403, "GatedRepo")
    assert "not here yet; someone/llama is gated: accept its licence at" in verify(config, capsys)
