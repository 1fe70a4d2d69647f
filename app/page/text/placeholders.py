"""Places in a source text where finished HTML goes, written so that no text of a model can hold one.

They are made of Unicode noncharacters, which are not for interchange: where they occur in a text they become U+FFFD
first, as CommonMark does with NUL. A placeholder therefore passes a Markdown parser like a letter, can't be forged, and
can be replaced in the HTML that comes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_DIGITS = [chr(0xFDD0 + digit) for digit in range(10)]
_BEGIN, _BEGIN_SOURCE, _END = "\ufdda", "\ufddb", "\ufddc"
CARET = "\ufddd"  # where an answer that is being written ends
LESS, MORE = "\ufdde", "\ufddf"  # for < and > on their way through a library that would not escape them

_FOREIGN = dict.fromkeys(range(0xFDD0, 0xFDF0), "\ufffd")
_PLACEHOLDER = re.compile(f"([{_BEGIN}{_BEGIN_SOURCE}])([{''.join(_DIGITS)}]+){_END}")


def cleaned(text: str) -> str:
    """A text without characters that could be taken for a placeholder."""
    return text if text.isascii() else text.translate(_FOREIGN)


def placeholder(index: int) -> str:
    """What stands for insertion number `index`."""
    return _BEGIN + "".join(_DIGITS[int(digit)] for digit in str(index)) + _END


def has_placeholder(text: str) -> bool:
    return _BEGIN in text


def as_source(text: str) -> str:
    """The text with placeholders for the source of each insertion, for places where no element can stand."""
    return text.replace(_BEGIN, _BEGIN_SOURCE)


def insert(html: str, insertion: Callable[[int], str], source: Callable[[int], str]) -> tuple[str, list[int]]:
    """HTML with everything in its place, and the numbers of the insertions (not sources), in their order."""
    found: list[int] = []

    def one(match: re.Match[str]) -> str:
        index = int("".join(str(_DIGITS.index(digit)) for digit in match[2]))
        if match[1] == _BEGIN_SOURCE:
            return source(index)
        found.append(index)
        return insertion(index)

    return _PLACEHOLDER.sub(one, html), found
