"""Pictures in bubbles: with boxes over them, or drawn by the model; and what the page's scripts know of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from app.chat.exchange import Exchange, IllustratedAnswer
from app.chat.pictures import Picture
from app.chat.regions import Entity
from app.page.boxes.labels import Labels
from app.page.boxes.overlay import drawing_size, overlay_svg, undrawn_note
from app.page.bubble_parts import saved_name
from models.extras import caption_of
from models.grounding import Box


def stage_data(
    index: int,
    picture: Picture | None,
    entities: Sequence[Entity],
    *,
    side: str = "",
    only: frozenset[Box] | None = None,
) -> str:
    """What the page's scripts know of a bubble: its exchange, the key of its picture, and its regions as JSON.

    `side`, of an answer that is one of two, is part of its exchange's name; `only` as in `overlay_svg`.
    """
    regions = json.dumps(
        [
            {
                "number": entity.number,
                "label": entity.label,
                "colour": entity.colour,
                "boxes": [[round(value, 4) for value in (box.x0, box.y0, box.x1, box.y1)] for box in entity.boxes],
                **({} if only is None else {"only": [box in only for box in entity.boxes]}),
            }
            for entity in entities
        ],
        ensure_ascii=False,
    )
    key = "" if picture is None else picture.key
    name = f"{index}-{side}" if side else str(index)
    return f'data-exchange="{name}" data-picture="{key}" data-regions="{escape(regions)}"'


def picture_figure(
    picture: Picture,
    entities: Sequence[Entity] = (),
    *,
    define: bool = False,
    embed: bool = False,
    description: str = "",
    labels: Labels | None = None,
    only: frozenset[Box] | None = None,
) -> str:
    """A picture with boxes. Its pixels are in the page once, where it was asked about first (`define`); later overlays
    refer to them by id, so a long chat about one image stays small. The page asks for them by their key and keeps
    them (assets/scripts/pictures.js); with `embed` they are in the HTML. `description` is for people who do not see
    the picture. `labels` and `only`: as in `overlay_svg`."""
    width, height = drawing_size(*picture.image.size)
    name = f"mv-picture-{picture.key}"
    if define:
        source = f'href="{picture.preview_uri}"' if embed else f'data-pixels="{picture.key}"'
        drawn = f'<image id="{name}" {source} width="{width}" height="{height}"/>'
    else:
        drawn = f'<use href="#{name}"/>'
    svg = overlay_svg(
        entities, size=picture.image.size, picture=drawn, description=description, labels=labels, only=only
    )
    shape = "mv-portrait" if height > width else "mv-landscape"
    note = undrawn_note(entities)
    caption = f'<figcaption class="mv-note">{note}</figcaption>' if note else ""
    return f'<figure class="mv-figure {shape}" style="--mv-ratio:{width / height:.4f}">{svg}{caption}</figure>'


def illustration_html(exchange: Exchange, picture: Picture | None, *, is_saved: bool) -> str:
    """The picture that was drawn for this answer, or how far it is."""
    answer = exchange.answer
    if not isinstance(answer, IllustratedAnswer):
        return ""
    if answer.drawn is None:
        return f'<p class="mv-note" role="status">{escape(answer.progress)}</p>' if exchange.is_running else ""
    description = f"Drawn picture: {caption_of(answer.text)}"
    figure = picture_figure(answer.drawn, define=True, embed=is_saved, description=description)
    if is_saved:
        return f'<div class="mv-illustration">{figure}</div>'
    name = saved_name(exchange, picture, "drawn")  # the script adds the ending
    return (
        f'<div class="mv-illustration">{figure}<div class="mv-actions mv-regions">'
        f'<button type="button" class="mv-action" data-save-picture="{name}">Save picture</button></div></div>'
    )
