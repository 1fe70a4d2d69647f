"""Answer text -> safe HTML with coloured, numbered phrases. Raw text comes in; it is escaped here and below, once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from html import escape

from app.chat.regions import Entity, entities_of, entity_key, parse_answer
from app.page.text.markdown import markdown_html
from app.page.text.placeholders import CARET, cleaned, insert, placeholder
from app.page.text.unfinished import without_half_written_box
from models.grounding import Box, BoxSpan, Phrase


def answer_html(
    text: str,
    *,
    phrase: str = "",
    spans: Sequence[BoxSpan] | None = None,
    unfinished: bool = False,
    caret: str = "",
) -> tuple[str, list[Entity]]:
    """The body of an answer, and the entities that its boxes belong to.

    Markdown and LaTeX become elements; an answer without any stays lines of text. Malformed boxes stay visible as text.
    `phrase` is what the question asked for, `spans` are those of the answer. In an `unfinished` answer, one that is
    being written or was cut short, a half-written box at the end is left out, a half-written phrase is shown without
    its tag, and what else has begun is shown as it will be; `caret` is HTML for its end.
    """
    parts = [one for one in parse_answer(text, phrase, spans) if isinstance(one, str) or one.boxes]
    if unfinished and spans is None and parts and isinstance(parts[-1], str):
        parts[-1] = without_half_written_box(parts[-1])
    entities = entities_of(parts)
    by_key = {entity.key: entity for entity in entities}
    phrases = {index: part for index, part in enumerate(parts) if isinstance(part, Phrase)}
    source = "".join(cleaned(part) if isinstance(part, str) else placeholder(index) for index, part in enumerate(parts))

    def button(index: int) -> str:
        return _phrase_html(phrases[index], *_look(by_key[entity_key(phrases[index], index)]))

    def markup(index: int) -> str:
        return escape(phrases[index].markup)

    marked = markdown_html(source, unfinished=unfinished)
    if marked is not None:
        html, found = insert(marked, button, markup)
        if found == list(phrases):
            return html.replace(CARET, caret), entities
    # Lines of text; or Markdown that would lose a phrase, say in the address of a link.
    return insert(escape(source), button, markup)[0] + caret, entities


def question_html(text: str) -> str:
    """A question as it was typed, with its boxes."""
    parts = parse_answer(text)
    by_key = {entity.key: entity for entity in entities_of(parts)}
    return "".join(
        _phrase_html(part, *_look(by_key[entity_key(part, index)])) if isinstance(part, Phrase) else escape(part)
        for index, part in enumerate(parts)
    )


def _look(entity: Entity) -> tuple[int, str, str]:
    return entity.number, entity.colour, entity.ink


@lru_cache(maxsize=2048)  # an answer that is being written is drawn again with every word, with all of its phrases
def _phrase_html(phrase: Phrase, number: int, colour: str, ink: str) -> str:
    """A button; its number is drawn by the style sheet, so that it is no part of text that is selected or copied."""
    where = "; ".join(describe_box(box) for box in phrase.boxes)
    name = f"{phrase.text or 'Box'}, region {number}: {where}"
    bare = "" if phrase.text else " mv-bare"
    return (
        f'<button type="button" class="mv-phrase{bare}" data-entity="{number}" aria-pressed="false" '
        f'aria-label="{escape(name)}" title="{escape(where)}" '
        f'style="--mv-colour:{colour};--mv-ink:{ink}">{escape(phrase.text)}</button>'
    )


def describe_box(box: Box) -> str:
    """Where a box is, in words and whole percents."""
    return f"x {box.x0:.0%} to {box.x1:.0%}, y {box.y0:.0%} to {box.y1:.0%}"
