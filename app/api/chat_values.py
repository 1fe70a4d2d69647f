"""The values of a `/chat` call before gradio reads them: what is left out gets its default, what is wrong one line.

gradio itself answers a call with too few values, or with one of another type, with `{"error": null}`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import gradio as gr

NAME = "chat"


class PageWithEndpoint(gr.Blocks):
    """gr.Blocks that looks at the values of `/chat` first."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False) -> Any:
        """As gr.Blocks.preprocess_data. Raises gr.Error, one line, for a value of `/chat` that can't be used."""
        if block_fn.api_name != NAME:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        values = complete_values(block_fn.inputs, inputs)
        try:
            return await super().preprocess_data(block_fn, values, state, explicit_call)
        except gr.Error:
            raise
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise gr.Error(f"The values can't be read: {reason}", print_exception=False) from error


def complete_values(components: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """A value for each component; those at the end that are missing, and those that are None, get their defaults.

    Raises gr.Error for too many, or for one of another type.
    """
    names = [component.label for component in components]
    if len(values) > len(components):
        raise _wrong(f"{len(values)} values were sent; there are {len(names)}: {', '.join(names)}.")
    complete: list[Any] = []
    for place, component in enumerate(components):
        value = values[place] if place < len(values) else None
        if value is None:
            value = component.value
        elif problem := _problem(component, value):
            raise _wrong(f"{component.label} is {reprlib.repr(value)}; it must be {problem}.")
        complete.append(value)
    return complete


def _problem(component: Any, value: Any) -> str:
    """What the value should be, if it is something else."""
    if isinstance(component, gr.File):
        if not isinstance(value, dict) or not isinstance(value.get("path"), str):
            return 'an uploaded file: handle_file("photo.png") in Python'
        if "://" in value["path"] or "://" in str(value.get("url") or ""):
            return "an uploaded file, as this server fetches no address; download it first"
    elif isinstance(component, gr.Textbox) and not isinstance(value, str):
        return "a text"
    elif isinstance(component, gr.JSON) and not isinstance(value, list):
        return "a list of turns"
    elif isinstance(component, gr.Checkbox) and not isinstance(value, bool):
        return "true or false"
    elif isinstance(component, gr.Number) and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "a number"
    return ""


def _wrong(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)
