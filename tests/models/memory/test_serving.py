"""Amounts of memory as people write them, and the keys of a YAML about chats."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.config import load_config
from models.errors import ConfigError
from models.memory.serving import Serving, parse_bytes
from tests.paths import ROOT

CONFIG = ROOT / "eval_configs" / "tiny_minigpt_v2.yaml"


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GiB", 2**31), (" 512 MiB ", 2**29), ("1.5g", 3 * 2**29), ("8KB", 2**13), ("1T", 2**40)],
)
def test_amounts(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "2", "GiB", "-1GiB", "0GiB", "0.0001K", "2 GiB more", "2PiB", "9" * 400 + "G"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount of memory; write for example 2GiB"):
        parse_bytes(text)


def test_keys_of_a_yaml(tmp_path: Path) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text(CONFIG.read_text(encoding="utf-8") + "max_chats: 2\nmax_queue: 5\nkv_memory: 300MiB\n")
    assert load_config(path).serving == Serving(max_chats=2, max_queue=5, kv_bytes=300 * 2**20)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_chats=0", "max_chats is 0; it must be more than 0"),
        ("max_queue=-1", "max_queue is -1; it must be 0 or more"),
        ("kv_memory=much", "kv_memory: 'much' is not an amount"),
    ],
)
def test_wrong_values_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIG, [override])
