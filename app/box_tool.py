"""The box tool: a rectangle drawn with mouse, finger or four number fields over the current image.

It is a gr.HTML of our own, as gradio has no box input. The browser part is assets/box_tool.js. Values:
Python -> browser `{"picture": data URI or "", "key": …, "clear": bool}`; browser -> Python `{"box": [x0, y0, x1, y1]}`
on the grid of the text markup, or null.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from app.images import Picture
from models.grounding import BINS, Box

ASSETS = Path(__file__).parent / "assets"

_FIELDS = (("x0", "Left"), ("y0", "Top"), ("x1", "Right"), ("y1", "Bottom"))

_TEMPLATE = """
<section class="mv-boxtool" aria-label="Box to ask about">
  <p class="mv-boxtool-empty">Add an image to draw a box on it.</p>
  <div class="mv-boxtool-work">
    <div class="mv-stage"><img alt="Drag over this image to mark what you ask about" draggable="false">
      <svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">
        <path class="mv-shade" fill-rule="evenodd" d=""/><rect class="mv-drawn" width="0" height="0"/></svg></div>
    <div class="mv-boxtool-side">
      <p class="mv-boxtool-help">Drag over the image, or type the edges in percent.</p>
      <div class="mv-fields">FIELDS</div>
      <button type="button" class="mv-action mv-clear-box">Clear box</button>
      <p class="mv-box-text" role="status"></p>
    </div>
  </div>
</section>
"""


def make_box_tool() -> gr.HTML:
    """The component; hidden by the page's script unless the question's task takes a box."""
    fields = "".join(
        f'<label>{label}<input type="number" data-edge="{edge}" min="0" max="{BINS}" step="1" inputmode="numeric">'
        "</label>"
        for edge, label in _FIELDS
    )
    return gr.HTML(
        None,
        html_template=_TEMPLATE.replace("FIELDS", fields),
        js_on_load=(ASSETS / "box_tool.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id="mv-boxtool",
    )


def tool_value(picture: Picture | None, *, clear: bool = False) -> dict[str, Any]:
    """Show this picture; the browser keeps the box if it is the picture already shown, unless `clear`."""
    if picture is None:
        return {"picture": "", "key": "", "clear": True}
    return {"picture": picture.preview_uri, "key": picture.key, "clear": clear}


def box_of(value: Any) -> Box | None:
    """The box that was drawn; anything unexpected from the browser is no box."""
    corners = value.get("box") if isinstance(value, dict) else None
    if not isinstance(corners, list) or len(corners) != 4:
        return None
    if not all(isinstance(corner, int | float) and 0 <= corner <= BINS for corner in corners):
        return None
    box = Box.from_corners(*(corner / BINS for corner in corners))
    return box if box.x1 > box.x0 and box.y1 > box.y0 else None
