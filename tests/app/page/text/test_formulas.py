"""LaTeX: what is a formula, what becomes of it, and what is let through."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.page.text import formulas
from app.page.text.markup import answer_html
from tests.app.page.text.html_reader import Reader

needs_mathml = pytest.mark.skipif(formulas._mathml("x", display=False) is None, reason="latex2mathml is not installed")


@needs_mathml
@pytest.mark.parametrize(
    ("text", "display"),
    [
        (r"so $e^{i\pi} + 1 = 0$.", "inline"),
        (r"so \(x\).", "inline"),
        (r"so \[ \frac{a}{b} \] it is", "block"),
        ("$$x^2$$", "block"),
        ("so\n$$\nx\n+ y\n- z\n$$\nit is", "block"),
        ("\\[\nx_1\n\\]", "block"),
        ("- $n$ items", "inline"),
        ("- item\n  $$\n  x^2\n  $$", "block"),
    ],
)
def test_formulas(text: str, display: str) -> None:
    html = answer_html(text)[0]
    assert f'<math display="{display}">' in html
    assert html.count("<math") == 1


@pytest.mark.parametrize(
    "text",
    [
        "$5 and $10",
        "from $5 to 6$ more",
        "US$ 5 = 4 EUR, 6$",
        "a $ b",
        "$$",
        "$ x^2 $",
        "$x^2",
        r"\(x",
        "costs $20_000 a$1",
    ],
)
def test_prices_and_halves_are_no_formulas(text: str) -> None:
    assert "mv-formula" not in answer_html(text)[0]


def test_what_is_no_latex_is_shown_as_it_was_written() -> None:
    assert Reader(answer_html(r"so $\frac{a$ it")[0]).text == r"so $\frac{a$ it"
    deep = "$" + "{" * 500 + "x^2" + "}" * 500 + "$"
    assert Reader(answer_html(deep)[0]).text == deep


def test_without_the_library_the_source_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)
    formulas._mathml.cache_clear()
    try:
        assert answer_html("$x<y^2$")[0] == '<p dir="auto"><code class="mv-formula" dir="ltr">$x&lt;y^2$</code></p>'
    finally:
        formulas._mathml.cache_clear()


@needs_mathml
def test_less_and_more_are_signs() -> None:
    html = answer_html("$a < b > c$")[0]
    assert "<mo>&lt;</mo>" in html
    assert "<mo>&gt;</mo>" in html


PIECES = [
    "{",
    "}",
    "\\frac",
    "\\text{",
    "<b>",
    "<script>",
    "&lt;",
    "&",
    "\\href{javascript:x}",
    "\\begin{matrix}",
    "\\end{matrix}",
]
PIECES += [
    "x",
    "^",
    "_",
    "\\\\",
    "\\style{a:url(b)}{",
    "\\color{red}",
    "\\left(",
    "\\right)",
    "\\sqrt",
    "\\unicode{",
    '"',
    "\\sum",
    "%",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join))
def test_any_latex_is_safe(latex: str) -> None:
    for text in (f"$$ {latex} $$", f"so \\({latex}\\)", f"${latex}$"):
        Reader(answer_html(text)[0]).check_allowed()


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("\\[\na\n\\[\nb\n\\]", r"\[" + "\na\n" + r"\[" + "\nb\n" + r"\]"),
        ("\\[\na \\] b\n\n\\[\nc\n\\]", r"\[" + "\nc\n" + r"\]"),
        ("> \\[\n> a\n\n\\[\nc\n\\]", r"\[" + "\nc\n" + r"\]"),
        ("- \\[\n\n\\[\nc\n\\]", r"\[" + "\nc\n" + r"\]"),
        ("$$\na\n\n\\[\nc\n\\]", r"\[" + "\nc\n" + r"\]"),
    ],
)
def test_a_formula_behind_one_that_does_not_end(text: str, formula: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formulas, "_mathml", lambda latex, display: None)
    assert f'<code class="mv-formula" dir="ltr">{formula}</code>' in answer_html(text)[0]
