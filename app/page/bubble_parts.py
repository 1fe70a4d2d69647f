"""What stands under an answer or a question: notices, buttons, and how the answer came about."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import PurePath

from app.chat.exchange import Exchange
from app.chat.pictures import Picture
from app.chat.regions import Entity, regions_data, shorten
from models.conversation import Answer, Sampling
from models.sampling_settings import settings_of

MAX_NAME_CHARACTERS = 40  # of each part of a file's name
MAX_MODEL_CHARACTERS = 80  # of a model's name where it stands in a line; that of an opened chat may be a stranger's
# A thumb up; the style sheet turns it over. An emoji would need a font that many systems lack.
_THUMB = "M5 7v6.5H2.5V7zm0 0 2.6-4.7c1 0 1.6.8 1.4 1.7l-.5 2.5h3.7c.9 0 1.5.8 1.3 1.6l-1.2 4.2c-.2.7-.8 1.2-1.5 1.2H5"


def notices_html(exchange: Exchange) -> str:
    answer = exchange.answer or Answer(text="")
    lines = list(answer.notices)
    # An answer that the context cut short has said so in its notices; Settings would not help it.
    if answer.finish_reason == "length" and answer.num_new_tokens >= exchange.sampling.max_new_tokens:
        lines.append("The answer reached the limit of new tokens (see Settings) and stops here.")
    if answer.finish_reason == "cancelled":
        lines.append("Stopped." if exchange.text else "Stopped before the answer began.")
    if not exchange.is_running and not exchange.text and not exchange.error and answer.finish_reason == "stop":
        lines.append("The model answered with nothing. Try another wording.")
    notices = "".join(f'<p class="mv-note">{escape(line)}</p>' for line in dict.fromkeys(lines))
    error = f'<p class="mv-error" role="alert">{escape(exchange.error)}</p>' if exchange.error else ""
    return notices + error


def footer_html(
    exchange: Exchange,
    index: int,
    picture: Picture | None,
    entities: Sequence[Entity],
    *,
    is_last: bool,
    experts: str,
    is_saved: bool,
    is_rated: bool = False,
) -> str:
    """The buttons of an answer; `experts` is the label of the one for its routing, empty for none. `is_rated`: visitors
    are asked what they think of it. What is for both answers of a pair stands below them.

    In a saved chat there are those alone that need no server.
    """
    buttons = []
    is_one_of_two = exchange.pair is not None
    if is_last and not is_saved and not is_one_of_two:
        buttons += [
            action("retry", index, "Retry", "Answer this question again"),
            action("undo", index, "Undo", "Take the last question and answer back"),
        ]
    if exchange.text:
        buttons.append(copy_button(exchange.text, "Copy", "Copy the answer"))
        if not is_saved:
            buttons.append(
                f'<button type="button" class="mv-action" data-code data-index="{index}" '
                f'data-side="{exchange.side}" aria-haspopup="dialog" '
                'title="This answer as code" aria-label="Code: this answer as code">Code</button>'
            )
        if experts and not is_saved:
            title = f"{experts}: which of them this answer's tokens went to"
            buttons.append(action("routing", index, experts, title))
    if is_rated and exchange.text and not is_saved and not is_one_of_two:
        buttons += [_thumb(exchange, index, "up", "Good answer"), _thumb(exchange, index, "down", "Bad answer")]
    details = _details(exchange) if exchange.answer else ""
    regions = _regions(exchange, picture, entities) if entities and picture is not None and not is_saved else ""
    return f'{regions}<div class="mv-actions">{"".join(buttons)}{details}</div>'


def _thumb(exchange: Exchange, index: int, rating: str, name: str) -> str:
    return (
        f'<button type="button" class="mv-action mv-thumb-rating" data-action="rate" data-index="{index}" '
        f'data-rating="{rating}" aria-pressed="{str(exchange.rating == rating).lower()}" aria-label="{name}" '
        f'title="{name}"><svg viewBox="0 0 16 16" aria-hidden="true"><path d="{_THUMB}"/></svg></button>'
    )


def _regions(exchange: Exchange, picture: Picture, entities: Sequence[Entity]) -> str:
    """The buttons that take the boxes out of the page. A file says by itself what was asked, of whom, and how."""
    regions = regions_data(entities, size=picture.size)
    about = {
        "question": exchange.question,
        "answer": exchange.text,
        "model": exchange.model,
        "settings": {one.name: getattr(exchange.sampling, one.name) for one in settings_of(exchange.sampling)},
        "picture": picture.name,
    }
    copied, file = (json.dumps(one, ensure_ascii=False, indent=1) for one in (regions, {**about, **regions}))
    json_name, image_name = saved_name(exchange, picture, "boxes.json"), saved_name(exchange, picture, "boxes.png")
    return (
        '<div class="mv-actions mv-regions">'
        f'<button type="button" class="mv-action" data-copy="{escape(copied)}">Copy boxes</button>'
        f'<button type="button" class="mv-action" data-save="{escape(file)}" data-name="{json_name}">Save JSON</button>'
        f'<button type="button" class="mv-action" data-save-png="{image_name}">Save image</button></div>'
    )


def saved_name(exchange: Exchange, picture: Picture | None, what: str) -> str:
    """The name of a file that is saved from an answer: model, picture, question, and what it is with its ending."""
    stem = "" if picture is None else PurePath(picture.name).stem
    return "_".join(filter(None, [*map(plain_name, (exchange.model, stem, exchange.question)), what]))


def shown_model(name: str) -> str:
    """A model's name for the middle of a line."""
    return shorten(name, MAX_MODEL_CHARACTERS)


def plain_name(text: str) -> str:
    """A text as part of a file's name: letters, digits and hyphens."""
    return "-".join(re.findall(r"[^\W_]+", text[: 4 * MAX_NAME_CHARACTERS].lower()))[:MAX_NAME_CHARACTERS].strip("-")


def _details(exchange: Exchange) -> str:
    """How the answer came about; and its text as the model wrote it."""
    answer = exchange.answer or Answer(text="")
    tokens = "1 token" if answer.num_new_tokens == 1 else f"{answer.num_new_tokens} tokens"
    speed = f"{tokens} in {answer.seconds:.1f} s" if answer.seconds else ""
    asked = exchange.asked.replace("T", " ").replace("+00:00", " UTC")
    facts = " · ".join(filter(None, [exchange.model, speed, describe_sampling(exchange.sampling), asked]))
    return (
        '<details class="mv-details"><summary>Details</summary>'
        f'<p class="mv-facts">{escape(facts)}</p></details>'
        '<details class="mv-written"><summary>Raw</summary>'
        '<pre class="mv-raw" dir="auto" tabindex="0" role="group" aria-label="Raw answer">'
        f"{escape(exchange.text)}</pre></details>"
    )


def describe_sampling(sampling: Sampling) -> str:
    """The settings of an answer in one line: those for drawing tokens first, the limit of its length last."""
    is_greedy = sampling.temperature == 0
    facts = ["greedy"] if is_greedy else []
    for setting in sorted(settings_of(sampling), key=lambda one: (not one.is_for_draws, one.in_tokens)):
        if not (is_greedy and setting.is_for_draws):
            facts.append(setting.detail.format(getattr(sampling, setting.name)))
    return " · ".join(facts)


def action(action: str, index: int, label: str, title: str) -> str:
    return (
        f'<button type="button" class="mv-action" data-action="{action}" data-index="{index}" '
        f'title="{escape(title)}" aria-label="{_spoken(label, title)}">{escape(label)}</button>'
    )


def copy_button(text: str, label: str, title: str) -> str:
    return (
        f'<button type="button" class="mv-action" data-copy="{escape(text)}" title="{escape(title)}" '
        f'aria-label="{_spoken(label, title)}">{escape(label)}</button>'
    )


def _spoken(label: str, title: str) -> str:
    """A name that begins with what is written on the button: people who speak to their computer say that."""
    return escape(title if title.startswith(label) else f"{label}: {title}")


def branch_of(exchange: Exchange) -> tuple[int, int]:
    """Which version of a question this is, from 1 on, and how many there are."""
    branches = exchange.branches
    return (1, 1) if branches is None else (branches.current + 1, len(branches.tails))


def branch_switch(exchange: Exchange, index: int) -> str:
    """Where a question was replaced: leads to the other versions, with the answers that followed them."""
    number, count = branch_of(exchange)
    if count < 2:
        return ""

    def button(step: int, sign: str, name: str) -> str:
        return (
            f'<button type="button" class="mv-action" data-action="branch" data-index="{index}" data-step="{step}" '
            f'aria-label="{name}" title="{name}"><span aria-hidden="true">{sign}</span></button>'
        )

    return (
        f'<span class="mv-branch">{button(-1, "‹", "Version before this one")}'
        f"<span>{number} of {count}</span>{button(1, '›', 'Version after this one')}</span>"
    )
