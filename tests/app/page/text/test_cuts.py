"""A text that is cut for speed reads as if it were not."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from app.page.text import markdown
from app.page.text.cuts import ROWS, cut, cut_rows
from app.page.text.markdown import markdown_html

LINES = (
    *(
        "",
        "",
        "plain words",
        "  indented",
        "    deeper",
        "- item",
        "* other",
        "1. first",
        "2) second",
        "- ",
        "  - inner",
    ),
    *("| a | b |", "|-|:-:|", "| *c* | `d` |", "```", "```py", "~~~~", "> quote", "# Title", "---", "**bold", "text*"),
    *("$x^2$", "$$", "\\[", "> ```", "- ```", "\tcode", "10. ten", "| one |", "a\u2028\u2028b", "c\rd", "  - inner"),
)


def whole(source: str, *, unfinished: bool) -> str | None:
    """What it was without cutting."""
    block = markdown._parse(source, unfinished=unfinished)
    return None if block.is_plain or not block.has_content else block.html


@given(st.lists(st.sampled_from(LINES), max_size=14), st.booleans(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_text_in_pieces_is_the_text(lines: list[str], unfinished: bool, ends: bool) -> None:
    source = "\n".join(lines) + ("\n" if ends else "")
    assert "".join(cut(source)) == source
    assert markdown_html(source, unfinished=unfinished) == whole(source, unfinished=unfinished)


@given(
    st.sampled_from(("table", "- ", "1. ")),
    st.integers(2 * ROWS - 2, 4 * ROWS),
    st.lists(st.tuples(st.integers(0, 70), st.sampled_from(LINES)), max_size=2),
    st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_a_long_table_or_list_in_pieces_is_one(
    kind: str, count: int, others: list[tuple[int, str]], unfinished: bool
) -> None:
    if kind == "table":
        lines = ["| a | b |", "|:-|--|", *(f"| {row} | **{row}** |" for row in range(count))]
    else:
        lines = [f"{kind}item *{row}*" for row in range(count)]
    for place, line in others:
        lines.insert(place, line)
    source = "\n".join(lines)
    assert markdown_html(source, unfinished=unfinished) == whole(source, unfinished=unfinished)


def test_only_the_last_rows_of_a_growing_table_are_parsed() -> None:
    rows = ["| a | b |", "|-|-|", *(f"| {row} | x |" for row in range(170))]
    assert len(cut_rows("\n".join(rows))) > 10
    markdown._parsed.cache_clear()
    markdown_html("\n".join(rows[:-1]), unfinished=True)
    before = markdown._parsed.cache_info().misses
    markdown_html("\n".join(rows), unfinished=True)
    assert markdown._parsed.cache_info().misses == before
