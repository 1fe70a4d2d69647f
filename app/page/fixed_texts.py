"""The fixed texts of the page as HTML."""

from __future__ import annotations

import json
from html import escape

from models.model_info import ModelInfo

TITLE = "MiniVLM Chat"


def header_html(info: ModelInfo, menu: str = "", *, has_choice: bool = False) -> str:
    """Title and what is loaded; `menu` is the HTML of the chat's menu. `has_choice`: the model can be chosen there."""
    model = f'<span class="mv-model">{escape(info.name)}</span>'
    if has_choice:  # library.js fills it
        model = (
            '<details class="mv-picker"><summary class="mv-model" title="Choose a model">'
            f'{escape(info.name)}</summary><div class="mv-models" role="group" aria-label="Models"></div></details>'
        )
    compare = (
        '<button type="button" class="mv-action mv-compare-button" data-compare aria-pressed="false" '
        'title="Compare: two answers to each question, side by side">Compare</button>'
    )
    return (
        f'<header class="mv-header"><h1>{TITLE}</h1>{model}{compare}'
        f'{menu}<button type="button" class="mv-action mv-settings" data-action="settings">Settings</button>'
        '<button type="button" class="mv-action" data-action="theme" aria-label="Switch light and dark">'
        '<span aria-hidden="true">◐</span></button></header>'
    )


def toy_html() -> str:
    """What a bundled model is, and what it is not."""
    return (
        '<aside class="mv-toy" aria-label="About this model"><details><summary>'
        "<strong>A tiny model, to try the program.</strong> <span>It knows only drawn scenes of coloured "
        "shapes, digits and short words.</span> For photographs, <u>load a released checkpoint</u>.</summary><ol>"
        "<li>See what each one needs: <code>python demo.py --list</code></li>"
        "<li>Put the files where <code>checkpoints/README.md</code> says.</li>"
        "<li>Start with it: <code>python demo.py --cfg-path eval_configs/minigpt_v2.yaml</code></li>"
        "</ol></details></aside>"
    )


def placeholder_html(info: ModelInfo) -> str:
    """The empty conversation: what can be asked. What the model is, is said where the picture will be (stage.py)."""
    tasks = "".join(f"<dt>{escape(task.label)}</dt><dd>{escape(task.hint)}</dd>" for task in info.tasks)
    listed = f'<dl class="mv-abilities">{tasks}</dl>' if tasks else ""
    return f'<div class="mv-welcome"><h2>What you can ask</h2>{listed}</div>'


def chips_html(info: ModelInfo) -> str:
    """A button for each task; the script shows which is chosen."""
    return "".join(
        f'<button type="button" class="mv-chip" id="mv-task-{index}" data-action="task" data-index="{index}" '
        f'aria-pressed="false">{escape(task.label)}</button>'
        for index, task in enumerate(info.tasks)
    )


def tasks_html(info: ModelInfo) -> str:
    """The hint under the task buttons, and the tasks for the script."""
    tasks = [
        {name: getattr(task, name) for name in ("identifier", "prompt", "hint", "takes_box", "gives_boxes")}
        for task in info.tasks
    ] or [{"identifier": "", "prompt": "", "hint": "", "takes_box": False, "gives_boxes": False}]
    return (
        f'<div data-tasks="{escape(json.dumps(tasks))}"><p class="mv-hint" role="status">'
        f"{escape(str(tasks[0]['hint']))}</p></div>"
    )


def model_html(info: ModelInfo) -> str:
    """Facts about the loaded model."""
    size = f"{info.num_parameters / 1e6:,.1f} million" if info.num_parameters else ""
    facts = {
        "Model": info.name,
        "Family": info.family,
        "Parameters": size,
        "Device": ", ".join(filter(None, (info.device, info.dtype))),
        "Quantization": info.quantization if info.quantization != "none" else "",
        "Context": f"{info.context_tokens:,} tokens",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value)
    return f'<dl class="mv-facts-list" aria-label="Model">{rows}</dl>'
