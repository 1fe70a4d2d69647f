"""Answer text -> safe HTML with coloured, numbered phrases. Raw text comes in; it is escaped here and only here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape

from app.overlay import Entity, entities_of, entity_key
from models.grounding import Box, Phrase, parse_grounded_text

# What a half-written phrase or box looks like at the end of an answer.
_UNFINISHED = re.compile(r"(?:<p>(?P<phrase>[^<{}]*)(?:</?p?>?)?\s*)?(?:<d?e?l?i?m?>?\s*)?(?:\{[<>\-\d\s]*|</?p?)?$")


def answer_html(text: str, *, unfinished: bool = False) -> tuple[str, list[Entity]]:
    """The body of an answer, and the entities that its boxes belong to.

    Malformed markup stays visible as text. In an `unfinished` answer, one that is being written or was cut short, a
    half-written box at the end is left out and a half-written phrase is shown without its tag.
    """
    parts = parse_grounded_text(text)
    if unfinished and parts and isinstance(parts[-1], str):
        parts[-1] = _UNFINISHED.sub(lambda match: match["phrase"] or "", parts[-1], count=1)
    entities = entities_of(parts)
    by_key = {entity.key: entity for entity in entities}
    html = []
    for index, part in enumerate(parts):
        if isinstance(part, Phrase):
            html.append(_phrase_html(part, by_key[entity_key(part, index)]))
        else:
            html.append(escape(part))
    return "".join(html), entities


def _phrase_html(phrase: Phrase, entity: Entity) -> str:
    where = "; ".join(describe_box(box) for box in phrase.boxes)
    label = escape(phrase.text) if phrase.text else '<span class="mv-bare" aria-hidden="true">▢</span>'
    name = escape(f"{phrase.text or 'Box'}, region {entity.number}: {where}")
    return (
        f'<button type="button" class="mv-phrase" data-entity="{entity.number}" aria-pressed="false" '
        f'aria-label="{name}" title="{escape(where)}" '
        f'style="--mv-colour:{entity.colour};--mv-ink:{entity.ink}">{label}'
        f'<span class="mv-number" aria-hidden="true">{entity.number}</span></button>'
    )


def describe_box(box: Box) -> str:
    """Where a box is, in words and whole percents."""
    return f"x {box.x0:.0%} to {box.x1:.0%}, y {box.y0:.0%} to {box.y1:.0%}"


def regions_json(entities: Sequence[Entity], *, size: tuple[int, int]) -> str:
    """Every region as JSON: fractions of the image and pixels of the uploaded file."""
    width, height = size
    regions = [
        {
            "label": entity.label,
            "number": entity.number,
            "box": [round(value, 4) for value in (box.x0, box.y0, box.x1, box.y1)],
            "pixels": list(box.pixels(width, height)),
        }
        for entity in entities
        for box in entity.boxes
    ]
    return json.dumps({"image": {"width": width, "height": height}, "regions": regions}, ensure_ascii=False, indent=1)
