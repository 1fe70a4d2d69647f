"""The comparison with peers: what is asked, what comes of it. The peers themselves are not among the requirements."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.peers import __main__ as command
from benchmarks.peers.asking import RunningPeer
from benchmarks.peers.environments import OURS, PeerKind, PeerMissing
from benchmarks.peers.peer_turns import CHATS, DECODE, PREFILL, TURN5, Cell, prompt
from benchmarks.peers.peer_weights import SIZES, write_weights
from benchmarks.peers.peers_table import write_tables
from benchmarks.peers.tensors import settings, tensors
from tests.paths import ROOT


def test_weights_are_read_without_torch_as_they_are(tmp_path: Path) -> None:
    write_weights(tmp_path, SIZES["small"])
    expected = load_file(tmp_path / "model.safetensors")
    found = dict(tensors(tmp_path))
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert expected[name].dtype == torch.bfloat16
        assert np.array_equal(values, expected[name].float().numpy()), name
    assert settings(tmp_path)["num_hidden_layers"] == SIZES["small"].layers


def test_ours_is_asked_and_the_report_has_every_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["small", "--precisions", "fp32", "--peers", "--folder", str(tmp_path), "--output", str(tmp_path)]
    assert command.main(arguments) == 0
    (path,) = tmp_path.glob("*-peers-small.json")
    values = json.loads(path.read_text(encoding="utf-8"))
    assert [cell["measure"] for cell in values["cells"]] == [DECODE, CHATS, PREFILL, TURN5]
    assert all(cell["best_peer"] is None and list(cell["figures"]) == ["ours"] for cell in values["cells"])
    assert values["load_s"]["fp32"]["ours"] > 0
    assert "| 32 bits, 8 chats |" in capsys.readouterr().out


def test_a_peer_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    nobody = PeerKind(name="nobody", packages=(), precisions=("fp32",))
    with pytest.raises(
        PeerMissing, match=r"^nobody ended without an answer and is left out; its output is in .*log\.$"
    ):
        RunningPeer(nobody, "fp32", tmp_path / "weights", tmp_path)
    assert "nobody_peer" in (tmp_path / "weights-nobody" / "fp32.log").read_text(encoding="utf-8")


def test_ratios_are_of_repetitions_and_against_the_best_peer() -> None:
    speed = Cell("8bit", DECODE, "tokens/s", {"ours": [10, 20, 30], "a": [20, 20, 20], "b": [5, 10, 60]})
    assert speed.ratio("a") == 1.0
    assert speed.ratio("b") == 2.0
    assert speed.worst() == ("a", 1.0)
    seconds = Cell("fp32", TURN5, "s", {"ours": [1, 2], "a": [2, 8]})
    assert seconds.worst() == ("a", 3.0)
    assert Cell("4bit", CHATS, "tokens/s", {"ours": [1]}).worst() is None


def test_prompts_share_nothing_but_their_first_token() -> None:
    first, second = (prompt(512, 32000, seed) for seed in (1, 2))
    assert len(first) == len(second) == 512
    assert first == prompt(512, 32000, 1)
    assert [a == b for a, b in zip(first, second, strict=True)][:2] == [True, False]


def test_what_a_token_reads_is_every_matrix_but_the_embedding(tmp_path: Path) -> None:
    size = SIZES["small"]
    write_weights(tmp_path, size)
    matrices = [
        t for name, t in load_file(tmp_path / "model.safetensors").items() if t.dim() > 1 and "embed" not in name
    ]
    assert command.bytes_per_token(size, "16bit") == sum(tensor.nbytes for tensor in matrices)
    assert command.bytes_per_token(dataclasses.replace(size, layers=0), "4bit") == size.hidden * size.vocabulary


def test_the_document_has_the_newest_report_of_each_size(tmp_path: Path) -> None:
    cell = {
        "precision": "8bit", "measure": DECODE, "unit": "tokens/s", "medians": {"ours": 9.5, "CTranslate2": 10.0},
        "ratio": 0.95, "goal": 0.95, "share_of_bandwidth": {"ours": 0.8},
    }  # fmt: skip
    limits = {"read_gb_s": 12.0, "fp32_gflop_s": 150.0, "bf16_gflop_s": 80.0, "int8_gop_s": 600.0}
    for date, size in (("2026-01-01", "1.1B"), ("2026-01-02", "1.1B"), ("2026-01-01", "134M")):
        values = {"date": date, "size": size, "device": "CPU", "load_at_start": 0.1, "limits": limits, "cells": [cell]}
        (tmp_path / f"{date}-peers-{size}.json").write_text(json.dumps(values), encoding="utf-8")
    text = write_tables("before\n<!-- peers:begin -->\nold\n<!-- peers:end -->\nafter", tmp_path)
    assert text.count("| 8 bits, decode, 1 chat | 9.5 | – | 10 | – | 0.95 | ≥ 0.95 |") == 2
    assert "2026-01-02" in text
    assert text.count("2026-01-01") == 1
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after")


def test_every_peer_has_a_file_and_exact_versions() -> None:
    for peer in (OURS, *command.PEERS):
        assert (ROOT / f"{peer.module.replace('.', '/')}.py").is_file()
        assert all("==" in package for package in peer.packages)
