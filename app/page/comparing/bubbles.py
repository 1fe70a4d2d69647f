"""Two answers to one question in the conversation: what is said of each, and, below both, how they differ."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from weakref import WeakKeyDictionary

from app.chat.comparison import Comparison, compare
from app.chat.exchange import Exchange, Pair
from app.page.bubble_parts import action, describe_sampling, shown_model
from models.grounding import Box

VOTES = {"left": "Left is better", "right": "Right is better", "tie": "Tie", "both bad": "Both bad"}

_compared: WeakKeyDictionary[Pair, tuple[tuple[object, ...], Comparison | None]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Side:
    """How an answer of a pair is shown. `only`: its boxes that the other one lacks, once both have ended. `can_go_on`:
    the conversation has not gone on yet, with this answer (`is_chosen`) or the other."""

    name: str
    only: frozenset[Box] | None
    is_chosen: bool
    can_go_on: bool
    by: str

    def go_on_html(self, index: int) -> str:
        """Whether the conversation goes on with this answer, or the button that lets it."""
        if self.is_chosen:
            return '<p class="mv-note mv-chosen">The conversation goes on with this answer.</p>'
        if not self.can_go_on:
            return ""
        title = f"Go on with this one: the {self.name} answer becomes the conversation's"
        return (
            f'<button type="button" class="mv-action mv-go-on" data-action="go_on" data-index="{index}" '
            f'data-side="{self.name}" aria-label="{title}">Go on with this one</button>'
        )


def comparison_of(pair: Pair) -> Comparison | None:
    """As `compare`, computed once for each state of the pair."""
    state = tuple(value for one in (pair.left, pair.right) for value in (one.answer, one.error))
    known = _compared.get(pair)
    if known is None or known[0] != state:
        known = _compared[pair] = state, compare(pair)
    return known[1]


def side_of(exchange: Exchange, chosen: Exchange, *, is_last: bool, is_saved: bool = False) -> Side | None:
    """How this answer is shown in a conversation that goes on with `chosen`; None for one that has no pair."""
    pair = exchange.pair
    if pair is None:
        return None
    comparison = comparison_of(pair)
    has_ended = comparison is not None
    by = [exchange.side.capitalize(), shown_model(exchange.model)]
    if pair.left.model == pair.right.model:
        by.append(describe_sampling(exchange.sampling))
    return Side(
        name=exchange.side,
        only=None if comparison is None or comparison.is_empty else comparison.only(exchange.side),
        is_chosen=has_ended and exchange is chosen,
        can_go_on=has_ended and is_last and bool(exchange.text) and not is_saved,
        by=" · ".join(by),
    )


def verdict_bubble(
    exchange: Exchange, index: int, *, is_last: bool, is_rated: bool = False, is_saved: bool = False, below: str = ""
) -> str:
    """What stands below both answers: how their boxes differ, the vote, and the buttons for both. `below`: HTML."""
    pair = exchange.pair
    assert pair is not None
    comparison = comparison_of(pair)
    name = f'class="mv-message mv-verdict" role="group" aria-label="Both answers to question {index + 1}" '
    name += f'data-verdict="{index}"'
    if comparison is None:
        return f'<div {name} data-state="running" hidden></div>'
    difference = ""
    if not comparison.is_empty:
        drawn = " What only one of them found is drawn bold." if comparison.only_left or comparison.only_right else ""
        difference = f'<p class="mv-note mv-difference">Boxes: {comparison}.{drawn}</p>'
    votes = _votes_html(pair, index, is_saved=is_saved) if is_rated or pair.vote else ""
    buttons = ""
    if is_last and not is_saved:
        both = action("retry", index, "Retry", "Answer this question again")
        buttons = f"{both}{action('undo', index, 'Undo', 'Take the last question and its answers back')}"
        buttons = f'<div class="mv-actions">{buttons}</div>'
    return f'<div {name} data-state="done">{difference}{votes}{buttons}{below}</div>'


def _votes_html(pair: Pair, index: int, *, is_saved: bool) -> str:
    if is_saved:
        return f'<p class="mv-note">Vote: {escape(VOTES.get(pair.vote, pair.vote)).lower()}.</p>'
    buttons = "".join(
        f'<button type="button" class="mv-action mv-vote" data-action="vote" data-index="{index}" data-vote="{vote}" '
        f'aria-pressed="{str(pair.vote == vote).lower()}">{label}</button>'
        for vote, label in VOTES.items()
    )
    return f'<div class="mv-actions mv-votes" role="group" aria-label="Which answer is better?">{buttons}</div>'
