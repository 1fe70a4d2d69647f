"""The conversation as Chatbot messages: every bubble is our own HTML, made from the session and from nothing else.

Chatbot's own text bubbles are not used: they sanitise `viewBox` away, and would offer escaped text for editing.
Buttons carry `data-action`; app.js hands them to the page's listener together with `data-index`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
from gradio.components.chatbot import ComponentMessage

from app.aids import IllustratedAnswer
from app.images import Picture
from app.markup import answer_html, regions_json
from app.overlay import Entity, drawing_size, entities_of, overlay_svg
from app.routing_view import routing_html
from app.session import ChatSession, Exchange
from models.aids import caption_of, without_marks
from models.conversation import Answer, Sampling
from models.grounding import parse_grounded_text

_HTML: dict[str, Any] = {"apply_default_css": False}
_HTML_CONFIG = gr.HTML("", **_HTML, render=False).get_config()  # here, as inside of a listener it can't be made

# Bubbles of answers that have ended, as an answer in a long chat is drawn many times a second.
_drawn: WeakKeyDictionary[Exchange, tuple[Any, list[dict[str, Any]]]] = WeakKeyDictionary()


def messages_of(session: ChatSession) -> list[dict[str, Any]]:
    """Every exchange as a user message and an assistant message."""
    messages = []
    for index, exchange in enumerate(session.exchanges):
        is_last = index == len(session.exchanges) - 1
        is_edited = index == session.editing
        picture = session.picture_of(index)
        state = (exchange.answer, exchange.error, index, is_last, is_edited, picture, exchange.routing)
        known = _drawn.get(exchange)
        if known is None or known[0] != state:
            drawn = _draw(exchange, index, picture, is_last=is_last, is_edited=is_edited, traced=session.has_experts)
            known = _drawn[exchange] = state, drawn
        messages += known[1]
    return messages


def _draw(
    exchange: Exchange, index: int, picture: Picture | None, *, is_last: bool, is_edited: bool, traced: bool
) -> list[dict[str, Any]]:
    question = question_bubble(exchange, index, picture, is_edited=is_edited)
    answer = answer_bubble(exchange, index, picture, is_last=is_last, traced=traced)
    return [_message("user", question), _message("assistant", answer)]


def _message(role: str, html: str) -> dict[str, Any]:
    """A message that shows a gr.HTML, in the form that Chatbot turns one into: making one takes a millisecond."""
    props = {**_HTML_CONFIG, "value": html}
    return {
        "role": role,
        "content": ComponentMessage(component="html", value=html, constructor_args=_HTML, props=props),
    }


def question_bubble(exchange: Exchange, index: int, picture: Picture | None, *, is_edited: bool = False) -> str:
    """The user's bubble: attached images, the text, a box that was asked about, and the edit button."""
    entities = entities_of(parse_grounded_text(exchange.question))
    figures = "".join(
        picture_figure(attached, entities if attached is picture else (), define=True) for attached in exchange.pictures
    )
    if entities and picture is not None and not exchange.pictures:
        figures = picture_figure(picture, entities)
    note = '<p class="mv-note">Your next question replaces this one and all below it.</p>' if is_edited else ""
    if exchange.begins_anew:
        note += '<p class="mv-note">New image, new conversation: the model does not see what was said before.</p>'
    mark = " mv-edited" if is_edited else ""
    return (
        f'<div class="mv-message mv-question{mark}" role="article" aria-label="Question {index + 1}">{figures}'
        f'<div class="mv-text" dir="auto">{answer_html(exchange.question)[0]}</div>{note}'
        f'<div class="mv-actions">{_action("edit", index, "Edit", "Edit this question")}'
        f"{_copy_button(exchange.question, 'Copy', 'Copy the question')}</div></div>"
    )


def answer_bubble(
    exchange: Exchange, index: int, picture: Picture | None, *, is_last: bool, traced: bool = False
) -> str:
    """The model's bubble: text with coloured phrases, the overlay, notices, what went wrong, and the buttons.

    `traced`: the model can tell where the answer's tokens went, and there is a button that asks it to.
    """
    shown = exchange.text
    if exchange.wishes.wants_picture:
        shown = without_marks(shown, streaming=exchange.is_running)
    is_whole = exchange.answer is not None and exchange.answer.finish_reason == "stop"
    body, entities = answer_html(shown, unfinished=not is_whole)
    state = "running" if exchange.is_running else "failed" if exchange.error else "done"
    if exchange.is_running and not exchange.text:
        number = exchange.answer.queue_number if exchange.answer else 0
        doing = f"Waiting for others: number {number} in the queue" if number else "Reading the question"
        text = f'<div class="mv-thinking" role="status"><i></i><i></i><i></i><span>{doing}</span></div>'
    else:
        caret = '<span class="mv-caret" aria-hidden="true"></span>' if exchange.is_running else ""
        text = f'<div class="mv-text" dir="auto">{body}{caret}</div>' if exchange.text else ""
    figure = picture_figure(picture, entities) if entities and picture is not None else ""
    footer = "" if exchange.is_running else _footer(exchange, index, picture, entities, is_last, traced)
    if exchange.routing is not None:
        footer += routing_html(exchange.routing, picture, name=f"mv-routing-{index}")
    return (
        f'<div class="mv-message mv-answer" role="article" aria-label="Answer {index + 1}" data-state="{state}">'
        f"{text}{figure}{_drawn_picture(exchange)}{_notices(exchange)}{footer}</div>"
    )


def picture_figure(
    picture: Picture, entities: Sequence[Entity] = (), *, define: bool = False, description: str = ""
) -> str:
    """A picture with boxes. Its pixels are in the page once, where it was asked about first (`define`); later overlays
    refer to them by id, so a long chat about one image stays small. `description` is for people who do not see it."""
    width, height = drawing_size(*picture.image.size)
    name = f"mv-picture-{picture.key}"
    if define:
        drawn = f'<image id="{name}" href="{picture.preview_uri}" width="{width}" height="{height}"/>'
    else:
        drawn = f'<use href="#{name}"/>'
    svg = overlay_svg(entities, size=picture.image.size, picture=drawn, description=description)
    shape = "mv-portrait" if height > width else "mv-landscape"
    return f'<figure class="mv-figure {shape}" style="--mv-ratio:{width / height:.4f}">{svg}</figure>'


def _drawn_picture(exchange: Exchange) -> str:
    """The picture that was drawn for this answer, or how far it is."""
    answer = exchange.answer
    if not isinstance(answer, IllustratedAnswer):
        return ""
    if answer.picture is None:
        return f'<p class="mv-note" role="status">{escape(answer.progress)}</p>' if exchange.is_running else ""
    description = f"Drawn picture: {caption_of(answer.text)}"
    figure = picture_figure(Picture(answer.picture, "picture"), define=True, description=description)
    return (
        f'<div class="mv-illustration">{figure}<div class="mv-actions mv-regions">'
        '<button type="button" class="mv-action" data-save-picture="picture">Save picture</button></div></div>'
    )


def _notices(exchange: Exchange) -> str:
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


def _footer(
    exchange: Exchange,
    index: int,
    picture: Picture | None,
    entities: Sequence[Entity],
    is_last: bool,
    traced: bool,
) -> str:
    buttons = []
    if is_last:
        buttons += [
            _action("retry", index, "Retry", "Answer this question again"),
            _action("undo", index, "Undo", "Take the last question and answer back"),
        ]
    if exchange.text:
        buttons.append(_copy_button(exchange.text, "Copy", "Copy the answer"))
        if traced:
            label = "Hide experts" if exchange.routing is not None else "Experts"
            buttons.append(_action("routing", index, label, f"{label}: which of them this answer's tokens went to"))
    details = _details(exchange) if exchange.answer else ""
    regions = _regions(picture, entities) if entities and picture is not None else ""
    return f'{regions}<div class="mv-actions">{"".join(buttons)}{details}</div>'


def _regions(picture: Picture, entities: Sequence[Entity]) -> str:
    """The buttons that take the boxes out of the page."""
    data = escape(regions_json(entities, size=picture.image.size))
    return (
        '<div class="mv-actions mv-regions">'
        f'<button type="button" class="mv-action" data-copy="{data}">Copy boxes</button>'
        f'<button type="button" class="mv-action" data-save="{data}" data-name="regions.json">Save JSON</button>'
        '<button type="button" class="mv-action" data-save-png="annotated.png">Save image</button></div>'
    )


def _details(exchange: Exchange) -> str:
    """How the answer came about, and its text as the model wrote it."""
    answer = exchange.answer or Answer(text="")
    speed = f"{answer.num_new_tokens} tokens in {answer.seconds:.1f} s" if answer.seconds else ""
    facts = " · ".join(filter(None, [speed, describe_sampling(exchange.sampling)]))
    return (
        '<details class="mv-details"><summary>Details</summary>'
        f'<p class="mv-facts">{escape(facts)}</p><pre class="mv-raw" tabindex="0" aria-label="Raw answer">'
        f"{escape(exchange.text)}</pre></details>"
    )


def describe_sampling(sampling: Sampling) -> str:
    """The settings of an answer in one line."""
    if sampling.temperature == 0:
        drawn = "greedy"
    else:
        drawn = f"temperature {sampling.temperature:g} · top-p {sampling.top_p:g} · seed {sampling.seed}"
    return f"{drawn} · repetition penalty {sampling.repetition_penalty:g} · at most {sampling.max_new_tokens} tokens"


def _action(action: str, index: int, label: str, title: str) -> str:
    return (
        f'<button type="button" class="mv-action" data-action="{action}" data-index="{index}" '
        f'title="{escape(title)}" aria-label="{_spoken(label, title)}">{escape(label)}</button>'
    )


def _copy_button(text: str, label: str, title: str) -> str:
    return (
        f'<button type="button" class="mv-action" data-copy="{escape(text)}" title="{escape(title)}" '
        f'aria-label="{_spoken(label, title)}">{escape(label)}</button>'
    )


def _spoken(label: str, title: str) -> str:
    """A name that begins with what is written on the button: people who speak to their computer say that."""
    return escape(title if title.startswith(label) else f"{label}: {title}")
