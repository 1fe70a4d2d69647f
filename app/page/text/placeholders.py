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
# Where HTML is cut, beside its insertions: a row that has been written stays as it is.
_PIECE = re.compile(r"(?=<(?:tr|li|p|h[3-6]|div)\b)")
LESS, MORE = "\ufdde", "\ufddf"  # for < and > on their way through a library that would not escape them

_FOREIGN = dict.fromkeys(range(0xFDD0, 0xFDF0), "\ufffd")
_DIGIT_OF = {sign: str(digit) for digit, sign in enumerate(_DIGITS)}
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


class Insertions:
    """HTML with everything in its place. Of HTML that grows at its end, what is settled is made once, and is one string
    that grows: gradio sends only what is new of that, and its page copies each string of a value several times."""

    def __init__(self) -> None:
        self._settled = ""  # the beginning of the HTML before
        self._text = ""  # of that, with everything in its place
        self._found: list[int] = []

    def insert(
        self, html: str, insertion: Callable[[int], str], source: Callable[[int], str], *, settled: int = 0
    ) -> tuple[list[str], list[int]]:
        """What is settled and the pieces after it; and the numbers of the insertions (not sources), in their order.

        Insertions with a number below `settled` will be the same the next time.
        """
        if not html.startswith(self._settled):
            self._settled, self._text, self._found = "", "", []
        pieces: list[str] = []
        found, end = list(self._found), len(self._settled)
        lasting = end, 0, len(found)
        is_settled = True
        for match in _PLACEHOLDER.finditer(html, end):
            between, end = html[end : match.start()], match.end()
            number = int("".join(map(_DIGIT_OF.__getitem__, match[2])))
            pieces += _PIECE.split(between)
            if match[1] == _BEGIN_SOURCE:
                pieces.append(source(number))
            else:
                pieces.append(insertion(number))
                found.append(number)
            is_settled = is_settled and number < settled and CARET not in between
            if is_settled:
                lasting = end, len(pieces), len(found)
        *whole, last = _PIECE.split(html[end:])
        pieces += whole
        if is_settled and not any(CARET in piece for piece in whole):
            lasting = len(html) - len(last), len(pieces), len(found)
        pieces.append(last)
        self._settled, self._found = html[: lasting[0]], found[: lasting[2]]
        self._text += "".join(pieces[: lasting[1]])
        return [*filter(None, [self._text]), *pieces[lasting[1] :]], found
