"""The stage: the picture, large, with the boxes of one answer; boxes to ask about are drawn on it.

It is a gr.HTML of our own, as gradio has no such component. Everything that it shows comes from the bubbles of the
conversation (`data-exchange`, `data-picture`, `data-regions`) and is drawn by assets/scripts/stage/. What bubbles
do not say is its value: box_tool.py.
"""

from __future__ import annotations

from html import escape

import gradio as gr

from models.grounding import BINS
from models.model_info import ModelInfo

STAGE_SCRIPTS = (
    "stage/view.js",
    "stage/labels.js",
    "stage/marks.js",
    "stage/drawing.js",
    "stage/actions.js",
    "stage/thumbs.js",
    "stage/compared.js",
    "stage/layers.js",
    "stage/screen.js",
    "stage/stage.js",
    "stage/shortcuts.js",
)

_FIELDS = (("x0", "Left"), ("y0", "Top"), ("x1", "Right"), ("y1", "Bottom"))

_ICONS = {
    "previous": "M10 3 5 8l5 5",
    "next": "m6 3 5 5-5 5",
    "draw": "M2.5 5.5v-3h3m5 0h3v3m0 5v3h-3m-5 0h-3v-3M8 5.5v5M5.5 8h5",
    "out": "M3 8h10",
    "in": "M3 8h10M8 3v10",
    "fit": "M3 6V3h3m4 0h3v3m0 4v3h-3m-4 0H3v-3",
    "full": "M9.5 6.5 13 3m-3 0h3v3M6.5 9.5 3 13m0-3v3h3",
    "close": "m3.5 3.5 9 9m0-9-9 9",
    "keys": "M2 4.5h12v7H2zM4.5 9.5h7M4.5 7h.01M7 7h.01M9.5 7h.01M12 7h.01",
}

_CONNECT = "window.minivlm.stage.connect(element, props, watch);"


def make_stage(info: ModelInfo, examples: str) -> gr.HTML:
    """The component. `examples`: HTML of the examples, shown with the introduction until there is a picture."""
    # Braces and dollars would be gradio's own templates.
    template = stage_html(info, examples).replace("{", "&#123;").replace("$", "&#36;")
    return gr.HTML(
        None,
        html_template=template,
        js_on_load=_CONNECT,
        apply_default_css=False,
        elem_id="mv-stage",
    )


def stage_html(info: ModelInfo, examples: str) -> str:
    """The introduction, the picture with its tools, and what is said about its boxes."""
    return (
        f'<section class="mv-stage" aria-label="Picture" data-state="empty">{intro_html(info, examples)}'
        '<div class="mv-work">'
        f"{_toolbar_html()}"
        '<div class="mv-view" tabindex="0" role="group" aria-roledescription="picture" aria-label="The picture" '
        'aria-keyshortcuts="+ - 0">'
        '<svg class="mv-canvas" role="img" aria-label="The picture"><image class="mv-pixels" '
        'preserveAspectRatio="none"/><image class="mv-patches" preserveAspectRatio="none"/><g class="mv-marks"></g>'
        '<path class="mv-shade" fill-rule="evenodd" d=""/><rect class="mv-drawn" width="0" height="0"/></svg>'
        '<div class="mv-box-menu" role="group" aria-label="About this box" hidden></div></div>'
        '<div class="mv-thumbs" role="tablist" aria-label="Pictures"></div>'
        f"{_fields_html()}"
        '<div class="mv-layers"></div>'
        f'<div class="mv-under"><div class="mv-counts"></div>{_switch_html()}</div></div>'
        '<div class="mv-splitter" role="separator" aria-orientation="vertical" aria-label="Width of the picture" '
        'tabindex="0"></div></section>'
    )


def intro_html(info: ModelInfo, examples: str) -> str:
    """What is shown until there is a picture: what the model is, and the examples (HTML)."""
    boxes = ", and with boxes on the picture" if any(task.gives_boxes for task in info.tasks) else ""
    known = "" if info.is_toy else f" {escape(info.description)}"  # what a bundled model knows is said above the chat
    return (
        '<div class="mv-intro"><h2>Ask about a picture</h2>'
        f"<p><strong>{escape(info.name)}</strong> answers in words{boxes}.{known}</p>"
        '<button type="button" class="mv-choose" data-stage="choose"><strong>Choose a picture</strong> '
        "<span>or drop or paste one, anywhere on this page</span></button>"
        f'<div id="mv-examples">{examples}</div></div>'
    )


def _toolbar_html() -> str:
    return (
        '<div class="mv-bar" role="toolbar" aria-label="Picture tools">'
        f'<div class="mv-steps">{_button("previous", "Previous answer", "[")}'
        '<span class="mv-which" role="status"></span>'
        f"{_button('next', 'Next answer', ']')}</div>"
        f"{_button('draw', 'Draw a box', 'B', text='Box', pressed=True)}"
        f'<div class="mv-zoom">{_button("out", "Zoom out", "-")}<span class="mv-scale">100 %</span>'
        f"{_button('in', 'Zoom in', '+')}{_button('fit', 'Whole picture', '0')}</div>"
        f"{_button('keys', 'Keyboard shortcuts', '?')}"
        f"{_button('full', 'Full screen', 'F', text='Open')}{_button('close', 'Close the picture', 'Escape')}</div>"
    )


def _button(name: str, title: str, key: str, *, text: str = "", pressed: bool = False) -> str:
    """A tool with an icon. With a text its name begins with what is written on it: people who speak to it say that."""
    label = f"{text}: {title}" if text else title
    state = ' aria-pressed="false"' if pressed else ""
    return (
        f'<button type="button" class="mv-tool" data-stage="{name}" title="{title} ({key})" aria-label="{label}"'
        f"{state}>"
        f'<svg viewBox="0 0 16 16" aria-hidden="true"><path d="{_ICONS[name]}"/></svg>'
        f"{f'<span>{text}</span>' if text else ''}</button>"
    )


def _switch_html() -> str:
    """How much is drawn over pictures, here and in the conversation."""
    choices = (("all", "Labels"), ("boxes", "Boxes"), ("none", "Neither"))
    buttons = "".join(
        f'<button type="button" data-marks="{name}" aria-pressed="false">{label}</button>' for name, label in choices
    )
    return f'<div class="mv-switch" role="group" aria-label="Show over the picture">{buttons}</div>'


def _fields_html() -> str:
    fields = "".join(
        f'<label>{label}<input type="number" data-edge="{edge}" min="0" max="{BINS}" step="1" inputmode="numeric">'
        "</label>"
        for edge, label in _FIELDS
    )
    return (
        '<div class="mv-fields" role="group" aria-label="Box in percent"><p>Drag over the picture, or type percent.</p>'
        f'{fields}<button type="button" class="mv-action" data-stage="clear">Clear box</button>'
        '<p class="mv-box-text" role="status"></p></div>'
    )
