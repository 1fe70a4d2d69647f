"""Where a Markdown text can be cut into pieces that render alone as they do together.

Of an answer that is being written only the last piece is then rendered anew, so that a table of hundreds of rows costs
what its last rows cost. Where it is not sure, the text is not cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ROWS = 16  # lines of a long table or list that make a piece

_LINE = re.compile(r"[^\n]*\n|[^\n]+")  # as Markdown has them; str.splitlines knows more ends
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_INNER_FENCE = re.compile(r"^(?! {0,3}[`~])[ \t]*(?:[-*+>\d][-*+>\d.) \t]*)?(?:```|~~~)", re.MULTILINE)
_EMPTY = re.compile(r"(?:[-*+>]|\d{1,9}[.)])\s*")  # marks of a block without anything in it yet
_ITEM = re.compile(r"(?:([-*+])|\d{1,9}([.)])) +\S")
_RULE = re.compile(r"\|(?: *:?-+:? *\|)+ *")


def cut(source: str) -> list[str]:
    """The blocks of a text. A list with blank lines between its items is one block; so is all of a text with formulas
    or with code in lists or quotes."""
    if any(mark in source for mark in ("$$", "\\[", "\r")) or _INNER_FENCE.search(source):
        return [source]
    pieces: list[list[str]] = [[]]
    fence = ""
    is_after_blank = has_item = False
    for line in _LINE.findall(source):
        is_blank = not line.strip()
        is_item = _ITEM.match(line) is not None
        stays = is_blank or fence or line[0] in " \t" or (is_item and has_item) or _EMPTY.fullmatch(line)
        if is_after_blank and not stays:
            pieces.append([])
            has_item = False
        pieces[-1].append(line)
        fence = _fence_after(fence, line)
        has_item = has_item or _ITEM.match(line.lstrip(" ")) is not None  # up to three spaces may stand before an item
        is_after_blank = is_blank
    return ["".join(piece) for piece in pieces]


def _fence_after(fence: str, line: str) -> str:
    """The fence of the code block that goes on after this line, if one does."""
    match = _FENCE.match(line)
    if match is None:
        return fence
    mark, rest = match[1], match[2]
    if not fence:
        return "" if mark[0] == "`" and "`" in rest else mark
    return "" if mark[0] == fence[0] and len(mark) >= len(fence) and not rest.strip() else fence


def cut_rows(piece: str) -> list[str]:
    """A block that is one long table or list, as several short ones of the same kind; else as it is."""
    lines = _LINE.findall(piece)
    if len(lines) <= 2 * ROWS:
        return [piece]
    if _RULE.fullmatch(lines[1].rstrip("\n")) and all(line.startswith("|") for line in lines):
        head = "".join(lines[:2])
        return [head + "".join(rows) for rows in _groups(lines[2:])]
    items = _items(lines)
    return ["".join(rows) for rows in _groups(items)] if len(items) > 2 * ROWS else [piece]


def _groups(lines: Sequence[str]) -> list[Sequence[str]]:
    return [lines[start : start + ROWS] for start in range(0, len(lines), ROWS)]


def _items(lines: Sequence[str]) -> list[str]:
    """The items of a list of one kind without blank lines; nothing if it is none."""
    items: list[str] = []
    kinds = set()
    for line in lines:
        match = _ITEM.match(line)
        if match is not None:
            kinds.add(match[1] or match[2])
            items.append(line)
        elif items and line[0] == " " and line.strip():
            items[-1] += line
        else:
            return []
    return items if len(kinds) == 1 else []


_SHELLS = (
    re.compile(r'(<div class="mv-table"[^>]*><table><thead>.*?</thead><tbody>)(.*)(</tbody></table></div>)', re.DOTALL),
    re.compile(r"(<ul [^>]*>)(.*)(</ul>)", re.DOTALL),
    re.compile(r"(<ol [^>]*>)(.*)(</ol>)", re.DOTALL),
)


def joined(parts: Sequence[str]) -> str | None:
    """The HTML of the tables or lists that `cut_rows` has made, as that of one; None if they are of several kinds."""
    if len(parts) == 1:
        return parts[0]
    for shell in _SHELLS:
        found = [match for part in parts if (match := shell.fullmatch(part))]
        if len(found) == len(parts):
            return f"{found[0][1]}{''.join(match[2] for match in found)}{found[0][3]}"
    return None
