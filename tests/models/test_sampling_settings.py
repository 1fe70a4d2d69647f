"""One description of every sampling setting: ranges, and all that reads them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from models.conversation import Sampling
from models.errors import RequestError
from models.sampling_settings import check, settings_of, with_values
from tests.paths import ROOT


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", float("inf")),
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", None),
        ("seed", 1.5),
        ("seed", True),
        ("seed", 10**400),  # more than a float holds
    ],
)
def test_bad_settings_are_named_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name) as caught:
        check(replace(Sampling(), **{name: value}))
    assert "\n" not in str(caught.value)


def test_good_settings_pass_and_whole_floats_become_whole_numbers() -> None:
    checked = check(Sampling(max_new_tokens=30.0, seed=2**62 + 1, temperature=0))  # type: ignore[arg-type]
    assert checked == Sampling(max_new_tokens=30, seed=2**62 + 1, temperature=0.0)
    assert type(checked.max_new_tokens) is int


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("temperature", 0, 100),
        ("top_p", 1e-9, 1),
        ("max_new_tokens", 1, 2**31 - 1),
        ("repetition_penalty", 1e-9, 100),
        ("seed", -(2**63), 2**63 - 1),
    ],
)
def test_the_ends_of_every_range_are_accepted(name: str, least: float, most: float) -> None:
    for value in (least, most):
        fields: dict[str, Any] = {name: value}
        assert getattr(check(replace(Sampling(), **fields)), name) == value


@pytest.mark.parametrize(("temperature", "checked"), [(1e-6, 0.0), (1.1e-6, 1.1e-6)])
def test_a_temperature_too_small_for_fp32_is_greedy(temperature: float, checked: float) -> None:
    assert check(Sampling(temperature=temperature)).temperature == checked


def test_only_the_seed_may_be_missing() -> None:
    for setting in settings_of(Sampling()):
        values = [None if one == setting else 1 for one in settings_of(Sampling())]
        if setting.name == "seed":
            assert check(with_values(Sampling(), values)).seed is None
        else:
            with pytest.raises(RequestError, match=f"{setting.name} is None"):
                check(with_values(Sampling(), values))


def test_the_documentation_lists_every_setting() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    (row,) = re.findall(r"^\| `sampling` \| of the family.*$", text, re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == ["sampling", *(setting.name for setting in settings_of(Sampling()))]
