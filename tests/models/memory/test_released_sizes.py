"""What is known of released models' memory before their files are here is what README's table says."""

from __future__ import annotations

import re

import pytest

from models.config import load_config
from models.memory.released_sizes import PRECISIONS, released_sizes
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\|[^|]*\| (`eval_configs/[^|]*`) \| ([\d.]+ GiB[^\n]*) \|$", README, re.MULTILINE)
STATED = {
    name: [float(cell.split()[0]) for cell in figures.split("|")]
    for files, figures in ROWS
    for name in re.findall(r"eval_configs/(\w+)\.yaml", files)
}


def test_every_released_configuration_has_figures() -> None:
    shipped = {path.stem for path in (ROOT / "eval_configs").glob("*.yaml") if not path.stem.startswith("tiny_")}
    assert STATED.keys() == shipped


@pytest.mark.parametrize("name", STATED)
def test_figures_are_those_of_the_readme(name: str) -> None:
    config = load_config(ROOT / "eval_configs" / f"{name}.yaml")
    sizes = released_sizes(config.family, str(getattr(config, "language_model", "")))
    assert sizes is not None
    assert [round(sizes[precision] / 2**30, 1) for precision in PRECISIONS] == STATED[name]
    assert sizes["float32"] == 2 * sizes["16 bit"]


def test_other_models_have_none() -> None:
    assert released_sizes("mini_gemini", "me/my-mgm") is None
    assert released_sizes("remote", "YanweiLi/MGM-2B") is None
