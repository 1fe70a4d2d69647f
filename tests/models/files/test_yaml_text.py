"""YAML that describes too much, or values of no kind, is one short line and takes no memory."""

from __future__ import annotations

import tracemalloc
from datetime import date

import pytest

from models.files.yaml_text import MAX_DEPTH, NotYaml, parse_yaml


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_ordinary_yaml() -> None:
    text = "base: &base {size: 144, when: 2026-01-31}\ncopy: *base\nmore:\n  <<: *base\n  size: 1_000"
    day = date(2026, 1, 31)
    assert parse_yaml(text) == {
        "base": {"size": 144, "when": day},
        "copy": {"size": 144, "when": day},
        "more": {"size": 1000, "when": day},
    }
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (laughs(9), "with those that aliases repeat"),
        ("a: &a [*a]", "repeats what it is part of"),
        ("[" * 5000 + "]" * 5000, f"nested more than {MAX_DEPTH} deep"),
        ("{a: " * 5000 + "}" * 5000, f"nested more than {MAX_DEPTH} deep"),
        ("a: 2023-02-30", "a value is none of its kind"),
        ("a: !!int x", "a value is none of its kind"),
        ("a: " + "1" * 5000, "a number of 5000 characters"),
        ("a: " + "1:" * 3000 + "1", "a number of 6001 characters"),
        ("a: 0x" + "f" * 5000, "a number of 5002 characters"),
        ('a: "\\ud800"', "surrogates"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: b: c", "mapping values are not allowed"),
        ("#" * 1_000_001, "longer than"),
    ],
)
def test_what_can_not_be_used_is_one_line(text: str, problem: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(NotYaml, match=problem) as caught:
            parse_yaml(text)
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
