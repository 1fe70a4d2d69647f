"""Special tokens that a server leaves in the text (`<loc_12>`, `</s>`): taken out of what is shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from models.grounding import BoxSpan

_HALF_TAG = re.compile(r"<[a-z_/0-9]{0,40}$")


def hidden(text: str, spans: Sequence[BoxSpan], tag: re.Pattern[str], *, is_whole: bool) -> tuple[BoxSpan, ...]:
    """The spans, which are in order, with one without boxes for every tag between them.

    Of a text that is not whole, a tag that has only begun is one, too.
    """
    found: list[BoxSpan] = []
    end = 0
    for span in (*spans, BoxSpan(len(text), len(text))):
        found += [BoxSpan(*match.span()) for match in tag.finditer(text, end, span.begin)]
        if span.begin < span.end:
            found.append(span)
        end = span.end
    if not is_whole and (half := _HALF_TAG.search(text, max(end_of(found), len(text) - 50))):
        found.append(BoxSpan(half.start(), len(text)))
    return tuple(found)


def end_of(spans: Sequence[BoxSpan]) -> int:
    """Where the last one ends."""
    return spans[-1].end if spans else 0
