"""A weight file in another one's place, its own family's or another's: one line that names it, unless it fits."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from models.errors import MiniVLMError
from models.inspection.file_headers import read_headers
from models.loader import load_model
from tests.paths import GOLDENS

CASES = sorted(path.parent.name for path in GOLDENS.glob("*/config.yaml"))
KINDS = (".pth", ".bin", ".safetensors")
NOT_READ = ("MGM-7B-Pretrain", "phi-2-native")  # for other configurations of the same cases
NUM_SWAPS = 4  # of each case, drawn with a fixed seed


class _Accepted(Exception):
    """Everything was checked; weights would be loaded next."""


def weight_files(case: str) -> list[Path]:
    found = (GOLDENS / case / "weights").rglob("*")
    return sorted(path for path in found if path.suffix in KINDS and path.parent.name not in NOT_READ)


def layout(file: Path) -> object:
    """What a file is to whoever looks at its names and sizes."""
    return {name: header.shape for name, header in read_headers(file).tensors.items()}


@pytest.mark.parametrize("case", CASES)
def test_another_file_is_named_unless_it_has_the_same_layout(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise _Accepted

    monkeypatch.setattr("models.loader.materialise", stop)
    draw, everything = random.Random(case), [file for other in CASES for file in weight_files(other)]
    for number in range(NUM_SWAPS):
        folder = shutil.copytree(GOLDENS / case, tmp_path / str(number), copy_function=os.link)
        place = draw.choice(weight_files(case))
        others = [file for file in everything if file.suffix == place.suffix and file != place]
        same_name = [file for file in others if file.name == place.name]
        other = draw.choice(same_name if same_name and number % 2 else others)
        target = folder / place.relative_to(GOLDENS / case)
        target.unlink()
        os.link(other, target)
        with pytest.raises((_Accepted, MiniVLMError)) as result:
            load_model(folder / "config.yaml", device="cpu", report=None)
        message = str(result.value)
        if result.type is _Accepted:
            assert layout(other) == layout(place), f"{other} was taken for {place}"
        else:
            assert "\n" not in message
            assert target.name in message or target.parent.name in message, f"{other} for {place}: {message}"
