"""What loading prints about the memory of weights, before anything is allocated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import pytest
from torch import Tensor

from models import loader
from models.config import family_module, load_config
from models.family_config import FamilyConfig
from models.files.released import ReleasedFiles
from tests.paths import ROOT


class _Enough(Exception):
    """Loading would go on to the tokenizer."""


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
    monkeypatch.setattr(loader, "check_vocabulary", stop)  # names and sizes were checked before
    monkeypatch.setattr("models.devices.free_bytes", lambda _: 2**40)
    with pytest.raises(_Enough):
        loader.load_model(yaml, device="cpu", dtype="bfloat16")
    printed = capsys.readouterr().out
    match = re.search(r"about ([\d.]+) GiB of weights; 1024\.0 GiB free on cpu", printed)
    assert match, printed
    return float(match[1])


def check_stated(name: str, printed: float) -> None:
    """README's table says what is printed for a configuration in 16 bit; of several in a line, the largest."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(rf"^\|.*`eval_configs/{name}\.yaml`.*?\| ([\d.]+) GiB \|", readme, re.MULTILINE)
    assert match, f"README.md has no line for {name}"
    least = 0.9 if match[0].count(".yaml") > 1 else 1.0
    assert least * float(match[1]) <= printed <= float(match[1])


def gibibytes_in_16_bit(tensors: Iterable[Tensor]) -> float:
    """What released tensors take at two bytes a value, whatever they are stored in."""
    return sum(2 * tensor.numel() for tensor in tensors) / 2**30
