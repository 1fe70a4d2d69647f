"""Boxes over a picture: numbered, coloured entities as inline SVG (the page's script makes the PNG to save from it).

All geometry is in units of 1/1000 of the picture's longer side, so one drawing fits every display size.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from app.chat.regions import Entity
from app.page.boxes.labels import FONT_SIZE, HEIGHT, PADDING, Label, Labels, Rectangle, place_labels, text_width
from models.grounding import Box

UNITS = 1000
MAX_DRAWN = 300  # boxes; more hide the picture, and cost every browser that shows it


def drawing_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the drawing for a picture of this size: the longer side has UNITS."""
    scale = UNITS / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def describe(entities: Sequence[Entity]) -> str:
    """The overlay in words, for people who do not see it."""
    if not entities:
        return "The image"
    items = []
    for entity in entities:
        count = len(entity.boxes)
        items.append(f"{entity.number}: {entity.label or 'box'}{f' ({count} boxes)' if count > 1 else ''}")
    return "The image with marked regions. " + "; ".join(items)


def overlay_svg(
    entities: Sequence[Entity],
    *,
    size: tuple[int, int],
    picture: str,
    description: str = "",
    labels: Labels | None = None,
    only: frozenset[Box] | None = None,
) -> str:
    """An `<svg>` with the picture and the boxes. `picture` is SVG markup that draws it over the whole drawing; `size`
    its width and height in pixels; `description` what it shows, by default what the boxes say.

    Every entity is two groups with its number in `data-entity`: its boxes, and above all boxes its labels. All of a
    kind are in one group, so that those of an answer that grows come at its end. Of more than MAX_DRAWN boxes only the
    first are drawn; `undrawn_note` says so. `labels`: as in `place_labels`. `only`: boxes that another answer lacks are
    bold, and all others step back.
    """
    width, height = drawing_size(*size)
    drawn = [(entity, box) for entity in entities for box in entity.boxes][:MAX_DRAWN]
    rectangles = [scale_box(box, (width, height)) for _, box in drawn]
    texts = [(entity.caption, str(entity.number)) for entity, _ in drawn]
    places = place_labels(list(zip(rectangles, texts, strict=True)), (width, height), labels)
    box_shapes: dict[int, str] = {}
    label_shapes: dict[int, str] = {}
    for (entity, box), rectangle, label in zip(drawn, rectangles, places, strict=True):
        strength = "" if only is None else "bold" if box in only else "quiet"
        box_shapes[entity.number] = box_shapes.get(entity.number, "") + _box_svg(entity, rectangle, strength)
        label_shapes[entity.number] = label_shapes.get(entity.number, "") + _label_svg(entity, label)
    boxes = "".join(_group_svg("mv-box", number, shapes) for number, shapes in box_shapes.items())
    plates = "".join(_group_svg("mv-label", number, shapes) for number, shapes in label_shapes.items())
    return (
        f'<svg class="mv-overlay" role="img" aria-label="{escape(description or describe(entities))}" '
        f'viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">{picture}<g>{boxes}</g><g>{plates}</g></svg>'
    )


def _group_svg(name: str, number: int, shapes: str) -> str:
    return f'<g class="{name}" data-entity="{number}">{shapes}</g>'


_STRENGTHS = {"": (10, 5, 0.08, 1.0), "bold": (14, 9, 0.2, 1.0), "quiet": (0, 3, 0.0, 0.65)}
"""Width of the halo and of the line, opacity of the area and of the line."""


def _box_svg(entity: Entity, rectangle: Rectangle, strength: str) -> str:
    x0, y0, x1, y1 = rectangle
    rect = f'x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" rx="4"'
    halo, line, area, opacity = _STRENGTHS[strength]
    # The pale halo keeps the box visible on a background of its own colour.
    behind = f'<rect {rect} fill="none" stroke="#ffffff" stroke-opacity="0.75" stroke-width="{halo}"/>' if halo else ""
    faint = f' stroke-opacity="{opacity}"' if opacity < 1 else ""
    return (
        f'{behind}<rect class="mv-box-line" {rect} fill="{entity.colour}" fill-opacity="{area:g}" '
        f'stroke="{entity.colour}" stroke-width="{line}"{faint}/>'
    )


def undrawn_note(entities: Sequence[Entity]) -> str:
    """What is said under a picture with more boxes than are drawn; else nothing."""
    count = sum(len(entity.boxes) for entity in entities)
    return f"{MAX_DRAWN} of {count:,} boxes are drawn." if count > MAX_DRAWN else ""


def _label_svg(entity: Entity, label: Label) -> str:
    left, top, right, bottom = label.place
    plate = (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
        f'rx="9" fill="{entity.colour}" stroke="#ffffff" stroke-opacity="0.75" stroke-width="2"/>'
    )
    if not label.text:
        return plate
    # Whatever the browser's font is, the text is as wide as its plate.
    return (
        f'{plate}<text x="{left + PADDING:.1f}" y="{top + HEIGHT * 0.73:.1f}" lengthAdjust="spacingAndGlyphs" '
        f'textLength="{text_width(label.text):.1f}" fill="{entity.ink}" font-size="{FONT_SIZE}" font-weight="600" '
        f'font-family="system-ui, sans-serif">{escape(label.text)}</text>'
    )


def scale_box(box: Box, size: tuple[int, int]) -> Rectangle:
    """A box in drawing units; never so thin that it cannot be seen."""
    width, height = size
    x0, y0, x1, y1 = box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height
    return x0, y0, max(x1, x0 + 2), max(y1, y0 + 2)
