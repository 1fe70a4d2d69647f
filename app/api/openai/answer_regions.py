"""The boxes of an answer, as programs want them: which words, which picture, fractions and pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.chat.pictures import Picture
from app.chat.regions import parse_answer
from models.grounding import BoxSpan, Phrase


def regions_of_text(
    text: str,
    picture: Picture | None,
    number: int,
    *,
    phrase: str = "",
    spans: Sequence[BoxSpan] | None = None,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """A dictionary for each box: `label`, `span`, `bbox`, `bbox_px`, `image`.

    `span` is where the markup stands in the text, begin and end, `offset` added; boxes of one phrase share it. `bbox`
    is x0, y0, x1, y1 in fractions of the picture, origin top left; `bbox_px` the same in its pixels; `image` its
    `number` among the request's pictures. A box without words of its own is labelled with `phrase`; `spans` are
    the answer's. Without a picture there are none.
    """
    if picture is None:
        return []
    regions: list[dict[str, Any]] = []
    place = offset
    for part in parse_answer(text, phrase, spans):
        length = len(part.markup) if isinstance(part, Phrase) else len(part)
        for box in part.places if isinstance(part, Phrase) else ():
            regions.append(
                {
                    "label": part.text if isinstance(part, Phrase) else "",
                    "span": [place, place + length],
                    "bbox": [round(value, 4) for value in (box.x0, box.y0, box.x1, box.y1)],
                    "bbox_px": list(box.pixels(*picture.size)),
                    "image": number,
                }
            )
        place += length
    return regions
