"""The value of the stage: what it is told beside the bubbles, and the box that was drawn on it.

- Python -> browser `{"pictures": [{"key", "uri"}], "current": key, "box": corners or null, "clear": bool or corners}`:
  pictures that are attached, and the one that the next question is about, without its pixels if it has been asked
  about before (assets/scripts/pictures.js has them, or asks for them); a box to show on it; whether the box that was
  drawn goes, or which one does;
- browser -> Python `{"box": [x0, y0, x1, y1]}`, or null: the box that was drawn, on the grid of the text markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.chat.pictures import Picture
from models.grounding import BINS, Box


def tool_value(
    picture: Picture | None, *, attached: Sequence[Picture] = (), box: Box | None = None, clear: bool | Box = False
) -> dict[str, Any]:
    """Show what is attached, and `picture`, which the next question is about. The browser keeps the box that was drawn
    on it unless it is another picture, or `clear`, or the very box that is to be cleared; `box` is drawn instead, if
    there is one."""
    pictures = {one.key: one.preview_uri for one in attached}
    if picture is not None:
        pictures.setdefault(picture.key, "")
    return {
        "pictures": [{"key": key, "uri": uri} for key, uri in pictures.items()],
        "current": "" if picture is None else picture.key,
        "box": None if box is None else _corners(box),
        "clear": _corners(clear) if isinstance(clear, Box) else clear or picture is None,
    }


def _corners(box: Box) -> list[int]:
    return [int(edge * BINS + 1e-9) for edge in (box.x0, box.y0, box.x1, box.y1)]


def box_of(value: Any) -> Box | None:
    """The box that was drawn; anything unexpected from the browser is no box."""
    corners = value.get("box") if isinstance(value, dict) else None
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    if not all(isinstance(corner, int | float) and 0 <= corner <= BINS for corner in corners):
        return None
    box = Box.from_corners(*(corner / BINS for corner in corners))
    return box if box.x1 > box.x0 and box.y1 > box.y0 else None
