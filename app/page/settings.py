"""The sidebar: a component for every sampling setting and for every extra, and what their values say.

The sampling settings come from their descriptions (models/sampling_settings.py), so a new one needs no line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from app.chat.exchange import WantedExtras
from app.extras.image_generation import INSTALL as INSTALL_GENERATOR
from app.extras.image_generation import ImageGenerator
from app.page.fixed_texts import model_html
from models.conversation import Sampling
from models.errors import RequestError
from models.extras import Extras
from models.model_info import ModelInfo
from models.sampling_settings import SamplingSetting, settings_of, with_values


def make_settings(info: ModelInfo, *, for_any: bool = False) -> tuple[list[gr.components.Component], gr.HTML]:
    """The sidebar, with the family's defaults: what `read_settings` takes the values of, and the facts of the model.

    `for_any`: the model may be exchanged for any other; `states` says what the components are then.
    """
    with gr.Sidebar(position="right", open=False, elem_id="mv-settings", label="Settings"):
        gr.Markdown("## Settings\nFor the next answer. Each answer keeps its own under *Details*.")
        components = [_component(setting, info) for setting in settings_of(info.sampling)]
        components += _switches(info, for_any=for_any)
        facts = gr.HTML(model_html(info), apply_default_css=False)
    return components, facts


def states(info: ModelInfo) -> list[dict[str, Any]]:
    """What the components made `for_any` model are for this one, in order, as gradio's properties."""
    found = []
    for setting in settings_of(info.sampling):
        default = getattr(info.sampling, setting.name)
        state: dict[str, Any] = {"value": default, "interactive": _is_used(setting, info)}
        if setting.slider is None:
            state["value"] = "" if default is None else str(default)
        elif setting.in_tokens:
            state["maximum"] = _most_tokens(setting, info)
        found.append(state)
    offered = info.extras or Extras()
    has_extras = info.extras is not None
    found.append({"value": has_extras and offered.ocr, "visible": has_extras})
    found.append({"value": has_extras and offered.generate, "visible": has_extras, "info": _drawing_help(offered)})
    return found


def connect_settings(info: ModelInfo, components: Sequence[gr.components.Component]) -> None:
    """At temperature 0 nothing is drawn: what only matters for draws can't be set then. The browser sees to it."""
    by_name = {one.name: component for one, component in zip(settings_of(info.sampling), components, strict=False)}
    drawing = [by_name[name] for name in _names_for_draws(info)]
    state = '{ __type__: "update", interactive: Number(temperature) > 0 }'
    js = f"(temperature) => [{', '.join([state] * len(drawing))}]"
    by_name["temperature"].change(None, by_name["temperature"], drawing, js=js)  # type: ignore[attr-defined]


def _names_for_draws(info: ModelInfo) -> list[str]:
    """The settings that mean nothing where the most probable token is always taken."""
    return [one.name for one in settings_of(info.sampling) if one.is_for_draws and one.name != "temperature"]


def _component(setting: SamplingSetting, info: ModelInfo) -> gr.components.Component:
    default = getattr(info.sampling, setting.name)
    is_used = _is_used(setting, info)
    if setting.slider is None:
        return gr.Textbox(
            "" if default is None else str(default),
            label=setting.label,
            info=setting.help,
            placeholder=f"{setting.when_empty.capitalize()} for every answer",
            max_lines=1,
            interactive=is_used,
        )
    low, high, step = setting.slider
    if setting.in_tokens:
        high = _most_tokens(setting, info)
    return gr.Slider(low, high, default, step=step, label=setting.label, info=setting.help, interactive=is_used)


def _is_used(setting: SamplingSetting, info: ModelInfo) -> bool:
    return info.sampling.temperature > 0 or setting.name not in _names_for_draws(info)


def _most_tokens(setting: SamplingSetting, info: ModelInfo) -> int:
    assert setting.slider is not None
    return int(max(getattr(info.sampling, setting.name), min(setting.slider[1], info.context_tokens)))


def _switches(info: ModelInfo, *, for_any: bool) -> list[gr.components.Component]:
    """For what works beside the model, where a family was trained with it."""
    if info.extras is None and not for_any:
        return []
    offered = info.extras or Extras()
    is_shown = info.extras is not None
    return [
        gr.Checkbox(
            offered.ocr and is_shown,
            label="Read text (OCR)",
            info="Text found in the image is added to the question. With dense text it can hurt.",
            elem_id="mv-ocr",
            visible=is_shown,
        ),
        gr.Checkbox(
            offered.generate and is_shown,
            label="Draw a picture",
            info=_drawing_help(offered),
            elem_id="mv-generate",
            visible=is_shown,
        ),
    ]


def _drawing_help(offered: Extras) -> str:
    missing = f" It is not installed, so the description is shown: {INSTALL_GENERATOR}"
    return (
        f"The model is asked to describe one; {offered.image_generator} draws it."
        f"{'' if ImageGenerator.is_installed() else missing}"
    )


def read_settings(info: ModelInfo, values: Sequence[Any]) -> tuple[Sampling, WantedExtras]:
    """What the values of `make_settings`' components say. Raises RequestError for a text that is no number."""
    descriptions = settings_of(info.sampling)
    drawn, switched = values[: len(descriptions)], values[len(descriptions) :]
    sampling = with_values(info.sampling, [_value(one, value) for one, value in zip(descriptions, drawn, strict=True)])
    reads_text, wants_picture = switched if switched and info.extras is not None else (False, False)
    return sampling, WantedExtras(reads_text=bool(reads_text), wants_picture=bool(wants_picture))


def _value(setting: SamplingSetting, value: Any) -> float | None:
    if setting.slider is not None:
        return int(value) if setting.is_whole else float(value)
    text, most = value.strip(), int(setting.high)
    if not text:
        return None
    if not (text.isdecimal() and len(text) <= len(str(most)) and int(text) <= most):
        raise RequestError(
            f"The {setting.label.lower()} must be a whole number from 0 to {most}, or empty for {setting.when_empty}."
        )
    return int(text)
