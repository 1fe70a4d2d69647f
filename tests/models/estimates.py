"""What loading prints about memory, up to the moment before anything is allocated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from torch import Tensor

from models import loader
from models.config import FamilyConfig, family_module, load_config
from models.released import ReleasedFiles

ROOT = Path(__file__).resolve().parents[2]


class _Enough(Exception):
    """Loading would begin to allocate."""


def printed_gibibytes(
    name: str,
    files: Callable[[FamilyConfig], ReleasedFiles],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> float:
    """The estimate that is printed when a configuration is loaded in 16 bit, where memory is plenty."""

    def stop(*_: object, **__: object) -> None:
        raise _Enough

    yaml = ROOT / "eval_configs" / f"{name}.yaml"
    monkeypatch.setattr(loader, "ReleasedFiles", files)
    monkeypatch.setattr(family_module(load_config(yaml).family, source=yaml), "tokenizer", lambda _: None)
    monkeypatch.setattr(loader, "materialise", stop)
    monkeypatch.setattr("models.devices.free_bytes", lambda _: 2**40)
    with pytest.raises(_Enough):
        loader.load_model(yaml, device="cpu", dtype="bfloat16")
    printed = capsys.readouterr().out
    match = re.search(r"about ([\d.]+) GiB of weights; 1024\.0 GiB free on cpu", printed)
    assert match, printed
    return float(match[1])


def gibibytes_in_16_bit(tensors: Iterable[Tensor]) -> float:
    """What released tensors take at two bytes a value, whatever they are stored in."""
    return sum(2 * tensor.numel() for tensor in tensors) / 2**30
