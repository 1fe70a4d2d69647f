"""The conversation as bubbles of HTML, made from the session and nothing else; conversation_component.py shows them.

Buttons carry `data-action`; app.js hands them to the page's listener together with `data-index`.

While an answer is written, this runs many times a second. What cannot have changed is therefore kept, per exchange, and
the bubble that changes is given in parts, so that only what is new of them travels to the browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

from app.chat.encoding import well_formed
from app.chat.exchange import Exchange
from app.chat.pictures import Picture
from app.chat.regions import Entity, entities_of
from app.page.boxes.figures import illustration_html, picture_figure, stage_data
from app.page.boxes.labels import Labels
from app.page.bubble_parts import action, branch_of, branch_switch, copy_button, footer_html, notices_html, shown_model
from app.page.comparing.bubbles import Side, side_of, verdict_bubble
from app.page.context_meter import context_html
from app.page.page_state import PageState
from app.page.routing_view import routing_html
from app.page.text.markup import GrowingAnswer, question_html
from models.errors import RequestError
from models.extras import without_marks
from models.grounding import parse_grounded_text
from models.routing_trace import RoutingTrace

# A bubble as HTML; or its opening tag, its text in pieces, and its other parts, which all together are the same.
Bubble = str | list[str | list[str]]


@dataclass
class _Known:
    """What is kept of an exchange from one drawing to the next."""

    question: tuple[Any, str] = (None, "")  # each with the state that it was made from
    answer: tuple[Any, Bubble] = (None, "")
    entities: list[Entity] = field(default_factory=list)  # those that are drawn while the answer is written
    figure: str = ""
    opening: str = ""
    labels: Labels = field(default_factory=dict)
    text: GrowingAnswer | None = None  # while it is written


_known: WeakKeyDictionary[Exchange, _Known] = WeakKeyDictionary()


def messages_of(
    page: PageState,
    *,
    has_experts: bool = False,
    context_tokens: int = 0,
    names_models: bool = False,
    current: str = "",
    is_rated: bool = False,
    most: float = inf,
) -> list[Bubble]:
    """The question and the answer of every exchange; `has_experts`: the answers get a button for them.
    `context_tokens`: the most that the model reads, for the meter under the last answer. `names_models`: each answer
    says whose it is, and only those of the model called `current` have experts to show. `is_rated`: they have thumbs.

    Only the last one may come in parts. Raises RequestError once they have more than `most` characters.
    """
    session = page.session
    bubbles: list[Bubble] = []
    shown_now = {one for exchange in session.exchanges for one in exchange.answers}
    for gone in page.shown - shown_now:  # to another branch: what is kept of it would be counted by nobody
        _known.pop(gone, None)
    page.shown = shown_now
    picture = None
    for index, exchange in enumerate(session.exchanges):
        is_last = index == len(session.exchanges) - 1
        is_edited, first = index == page.editing, len(bubbles)
        picture = exchange.pictures[-1] if exchange.pictures else picture
        known = _known.setdefault(exchange.answers[0], _Known())
        state: tuple[Any, ...] = (branch_of(exchange), index, is_edited, picture, exchange.side)
        if known.question[0] != state:
            known.question = state, well_formed(question_bubble(exchange, index, picture, is_edited=is_edited))
        bubbles.append(known.question[1])
        below = ""
        if is_last and context_tokens:
            below = context_html(exchange, index + 1, context_tokens, has_picture=picture is not None)
        for one in exchange.answers:
            shown = _Shown(
                index,
                picture,
                is_last=is_last,
                has_experts=has_experts and one is exchange and (not names_models or one.model == current),
                routing=page.routing.get(one),
                names_model=names_models,
                is_rated=is_rated,
                side=side_of(one, exchange, is_last=is_last),
            )
            bubbles.append(_kept_answer(one, shown, below="" if one.pair else below))
        if exchange.pair is not None:
            bubbles.append(verdict_bubble(exchange, index, is_last=is_last, is_rated=is_rated, below=below))
        most -= sum(len(html_of(bubble)) for bubble in bubbles[first:])
        if most < 0:
            raise RequestError("That is more than can be shown at once.")
    return bubbles


def html_of(bubble: Bubble) -> str:
    """A bubble in one piece."""
    if isinstance(bubble, str):
        return bubble
    return "".join("".join(part) if isinstance(part, list) else part for part in bubble) + "</div>"


@dataclass(frozen=True)
class _Shown:
    """How an answer is shown: all that its bubble depends on, beside the answer."""

    index: int
    picture: Picture | None
    is_last: bool
    has_experts: bool = False
    routing: RoutingTrace | None = None
    is_saved: bool = False
    names_model: bool = False
    is_rated: bool = False
    side: Side | None = None


def _kept_answer(exchange: Exchange, shown: _Shown, *, below: str) -> Bubble:
    """The bubble of an answer, made anew where something of it has changed. `below`: HTML at its end."""
    known = _known.setdefault(exchange, _Known())
    state = (exchange.answer, exchange.error, exchange.model, exchange.rating, shown, below)
    if known.answer[0] != state:
        opening, text, figure, under = _answer_parts(exchange, shown, known)
        # Half a character can't be sent, and would stop every later update.
        parts = [*map(well_formed, [figure, under, *([below] if below else [])])]
        pieces = [*map(well_formed, text)]
        opening = well_formed(opening)
        whole: Bubble = [opening, pieces, *parts]
        known.answer = (state, whole if shown.is_last else "".join([opening, *pieces, *parts, "</div>"]))
    return known.answer[1]


def question_bubble(
    exchange: Exchange, index: int, picture: Picture | None, *, is_edited: bool = False, is_saved: bool = False
) -> str:
    """The user's bubble: attached images, the text, a box that was asked about, and the buttons."""
    entities = entities_of(parse_grounded_text(exchange.question))
    figures = "".join(
        picture_figure(attached, entities if attached is picture else (), define=True, embed=is_saved)
        for attached in exchange.pictures
    )
    if entities and picture is not None and not exchange.pictures:
        figures = picture_figure(picture, entities)
    note = ""
    if is_edited:
        note = '<p class="mv-note">Your next question replaces this one and all below it. You can bring them back.</p>'
    if picture is None:
        note += '<p class="mv-note">Asked without an image: the model answers from its words alone.</p>'
    if exchange.begins_anew:
        note += '<p class="mv-note">New image, new conversation: the model does not see what was said before.</p>'
    elif exchange.first_seen:
        seen = exchange.first_seen + 1
        note += f'<p class="mv-note">The model sees the conversation from question {seen} on.</p>'
    mark = " mv-edited" if is_edited else ""
    edit = "" if is_saved else branch_switch(exchange, index) + action("edit", index, "Edit", "Edit this question")
    return (
        f'<div class="mv-message mv-question{mark}" role="article" aria-label="Question {index + 1}" '
        f"{stage_data(index, picture, entities)}>{figures}"
        f'<div class="mv-text" dir="auto">{question_html(exchange.question)}</div>{note}'
        f'<div class="mv-actions">{edit}'
        f"{copy_button(exchange.question, 'Copy', 'Copy the question')}</div></div>"
    )


def answer_bubble(
    exchange: Exchange,
    index: int,
    picture: Picture | None,
    *,
    is_last: bool,
    has_experts: bool = False,
    routing: RoutingTrace | None = None,
    is_saved: bool = False,
    names_model: bool = False,
    is_rated: bool = False,
    side: Side | None = None,
) -> str:
    """The model's bubble: text with coloured phrases, the overlay, notices, what went wrong, and the buttons.

    `has_experts`: there is a button that shows which of them the answer's tokens went to; `routing` is what it shows.
    `is_saved`: the bubble is for a file, so without buttons that need the server. `names_model`: it says who answers.
    `is_rated`: it has thumbs. `side`: it is one of two answers.
    """
    shown = _Shown(
        index,
        picture,
        is_last=is_last,
        has_experts=has_experts,
        routing=routing,
        is_saved=is_saved,
        names_model=names_model,
        is_rated=is_rated,
        side=side,
    )
    opening, text, figure, below = _answer_parts(exchange, shown, _Known())
    return "".join([opening, *text, figure, below]) + "</div>"


def _answer_parts(exchange: Exchange, view: _Shown, known: _Known) -> tuple[str, list[str], str, str]:
    """The bubble without its end: opening tag, text in pieces, picture with boxes, all that stands below it."""
    index, picture, side = view.index, view.picture, view.side
    shown = exchange.text
    if exchange.extras.wants_picture:
        shown = without_marks(shown, streaming=exchange.is_running)
    is_whole = exchange.answer is not None and exchange.answer.finish_reason == "stop"
    caret = '<span class="mv-caret" aria-hidden="true"></span>' if exchange.is_running else ""
    growing = known.text or GrowingAnswer(exchange.phrase)
    body, entities = growing.pieces(shown, spans=exchange.spans, unfinished=not is_whole, caret=caret)
    known.text = growing if exchange.is_running else None
    state = "running" if exchange.is_running else "failed" if exchange.error else "done"
    if exchange.is_running and not exchange.text:
        number = exchange.answer.queue_number if exchange.answer else 0
        doing = f"Waiting for others: number {number} in the queue" if number else "Reading the question"
        text = [f'<div class="mv-thinking" role="status"><i></i><i></i><i></i><span>{doing}</span></div>']
    else:
        text = ['<div class="mv-text" dir="auto">', *body, "</div>"] if exchange.text else []
    data, figure = _drawing(exchange, view, entities, known)
    by = side.by if side else shown_model(exchange.model) if view.names_model else ""
    name = f"Answer {index + 1}, {side.name}" if side else f"Answer {index + 1}"
    by_line = f'<p class="mv-by">{escape(by)}</p>' if by else ""
    opening = (
        f'<div class="mv-message mv-answer{" mv-side" if side else ""}" role="article" aria-label="{name}" '
        f'data-state="{state}" {data}>{by_line}'
    )
    experts = "" if not view.has_experts else "Experts" if view.routing is None else "Hide experts"
    footer = (
        ""
        if exchange.is_running
        else footer_html(
            exchange,
            index,
            picture,
            entities,
            is_last=view.is_last,
            experts=experts,
            is_saved=view.is_saved,
            is_rated=view.is_rated,
        )
    )
    if view.routing is not None:
        footer += routing_html(view.routing, picture, name=f"mv-routing-{index}")
    if side is not None:
        footer += side.go_on_html(index)
    below = f"{illustration_html(exchange, picture, is_saved=view.is_saved)}{notices_html(exchange)}{footer}"
    return opening, text, figure, below


def _drawing(exchange: Exchange, view: _Shown, entities: list[Entity], known: _Known) -> tuple[str, str]:
    """The regions for the page's scripts, and the picture with its boxes.

    While an answer is written, both stay as they are until some more boxes have come, the more the more there are: to
    draw hundreds of them anew with every one would take longer than to write them. Labels stay in place meanwhile.
    """
    picture, only = view.picture, view.side.only if view.side else None
    if exchange.is_running:
        if known.opening and _step(entities) == _step(known.entities):
            return known.opening, known.figure
        labels: Labels | None = known.labels
    else:
        labels = None
    known.entities = entities
    known.opening = stage_data(view.index, picture, entities, side=exchange.side, only=only)
    has_boxes = entities and picture is not None
    # It is told in words once, at the end: they would change the beginning of what grows.
    words = "The image with marked regions" if exchange.is_running else ""
    known.figure = ""
    if picture and has_boxes:
        known.figure = picture_figure(picture, entities, labels=labels, only=only, description=words)
    return known.opening, known.figure


def _step(entities: Sequence[Entity]) -> int:
    """The number of boxes, rounded down to an eighth of it."""
    count = sum(len(entity.boxes) for entity in entities)
    unit = 1 << max(0, count.bit_length() - 4)
    return count // unit * unit
