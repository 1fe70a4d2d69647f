"""The end of an answer that is being written: what is half there is held back, or shown as it will be.

It runs with every update of an answer, so all of it takes time in proportion to the text, whatever the text is.
"""

from __future__ import annotations

import re

_BOX_CHARACTERS = "<>-0123456789 \t\r\n\f\v"
_HALF_TAGS = ("</p", "</", "<p", "<")
_CLOSING_TAGS = ("</p>", *_HALF_TAGS)
_HALF_DELIMITERS = tuple("<delim>"[:length] for length in range(len("<delim>"), 0, -1))
_MARKERS = "*_~`\\"
MAX_OPEN = 300  # characters after a marker that nothing has closed yet; with more, it was none
_TICKS = re.compile(r"`+")
_LINE_MARKER = re.compile(r" *(?:[-+*#>|]{1,6}|\d{1,3}[.)]?)")


def without_half_written_box(text: str) -> str:
    """Text without the half of a box or of a tag at its end; of a phrase that has no box yet the words are left."""
    body = text.rstrip(_BOX_CHARACTERS)
    kept = body[:-1] if body.endswith("{") else _without_ending(text, _HALF_TAGS)
    head = kept.rstrip()
    before_delimiter = _without_ending(head, _HALF_DELIMITERS)
    if before_delimiter != head:
        kept = before_delimiter
    head = kept.rstrip()
    words = _without_ending(head, _CLOSING_TAGS)
    if words == head:
        words = kept
    before, tag, phrase = words.rpartition("<p>")
    return before + phrase if tag and not any(mark in phrase for mark in "<{}") else kept


def _without_ending(text: str, endings: tuple[str, ...]) -> str:
    return next((text[: -len(ending)] for ending in endings if text.endswith(ending)), text)


def with_table_rule(source: str) -> str:
    """Unfinished Markdown, shown as a table from its first row on.

    If it ends with what can be a table's first row, the rule `|-|-|` is added below it: without a rule Markdown shows
    the row as text, which would turn into a table a moment later.
    """
    head, _, last = source.removesuffix("\n").rpartition("\n")
    if last.startswith("|") and not last.strip("|-: \t"):  # the rule itself, half-written
        head, _, last = head.rpartition("\n")
    is_first = not head.rpartition("\n")[2].strip()
    row = last.rstrip()
    if not (is_first and row.startswith("|") and row.count("|") > 1):
        return source
    before = f"{head}\n" if head else ""
    return f"{before}{row}\n{'|-' * (row.count('|') - row.endswith('|'))}|"


def without_half_written_marks(text: str) -> str:
    """The text of a paragraph without what has only begun at its end: markers, a list, the address of a link."""
    kept = text.rstrip()
    lines, newline, last = kept.rpartition("\n")
    if newline and _LINE_MARKER.fullmatch(last):
        kept = lines
    kept = kept.rstrip(_MARKERS)
    before, link, address = kept.rpartition("](")
    if link and not any(mark in address for mark in ") \n"):
        before, bracket, label = before.rpartition("[")
        if bracket:
            return before + label
    return kept


def open_ticks(text: str) -> str:
    """The backticks that would end a piece of code at the end of the text; empty if none has begun."""
    runs = [(match[0], match.end()) for match in _TICKS.finditer(text)]
    lasts = {ticks: index for index, (ticks, _) in enumerate(runs)}
    index = 0
    while index < len(runs):
        ticks, end = runs[index]
        if lasts[ticks] == index:
            return ticks if len(text) - end <= MAX_OPEN else ""
        index = next(later for later in range(index + 1, len(runs)) if runs[later][0] == ticks) + 1
    return ""
