"""Answer text -> safe HTML with coloured, numbered phrases. Raw text comes in; it is escaped here and below, once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from html import escape

from app.chat.regions import Entity, entities_of, entity_key, parse_answer
from app.page.text.markdown import markdown_html
from app.page.text.placeholders import CARET, Insertions, cleaned, placeholder
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
    pieces, entities = GrowingAnswer(phrase).pieces(text, spans=spans, unfinished=unfinished, caret=caret)
    return "".join(pieces), entities


class GrowingAnswer:
    """As `answer_html`, for an answer that is drawn again and again while it is written: what nothing that comes can
    change is parsed and made once."""

    def __init__(self, phrase: str = "") -> None:
        self._phrase = phrase
        self._forget()

    def _forget(self) -> None:
        self._text = ""  # the beginning that is settled, up to the last phrase but one
        self._parts: list[str | Phrase] = []  # of that, its entities, and as source
        self._entities: list[Entity] = []
        self._source = ""
        self._marked, self._lines = Insertions(), Insertions()

    def pieces(
        self, text: str, *, spans: Sequence[BoxSpan] | None = None, unfinished: bool = False, caret: str = ""
    ) -> tuple[list[str], list[Entity]]:
        """The body of the answer in pieces, of which most are the same the next time, and its entities."""
        if spans is not None or not text.startswith(self._text):
            self._forget()
        rest = [one for one in parse_answer(text[len(self._text) :], self._phrase, spans) if _is_shown(one)]
        phrases = [index for index, part in enumerate(rest) if isinstance(part, Phrase)]
        if spans is None and len(phrases) > 1:  # the last one may get more boxes
            end = phrases[-2] + 1
            self._settle(text, rest[:end])
            rest = rest[end:]
        if unfinished and spans is None and rest and isinstance(rest[-1], str):
            rest[-1] = without_half_written_box(rest[-1])
        parts, count = [*self._parts, *rest], len(self._parts)
        entities = entities_of(rest, before=self._entities, first=count)
        source = self._source + _source(rest, count)
        return self._html(parts, entities, source, unfinished=unfinished, caret=caret), entities

    def _settle(self, text: str, parts: Sequence[str | Phrase]) -> None:
        """These parts of the text come next, and will stay as they are."""
        count = len(self._parts)
        self._entities = entities_of(parts, before=self._entities, first=count)
        self._source += _source(parts, count)
        self._parts += parts
        length = sum(len(part) if isinstance(part, str) else len(part.markup) for part in parts)
        self._text = text[: len(self._text) + length]

    def _html(
        self, parts: Sequence[str | Phrase], entities: Sequence[Entity], source: str, *, unfinished: bool, caret: str
    ) -> list[str]:
        by_key = {entity.key: entity for entity in entities}

        def button(index: int) -> str:
            part = parts[index]
            assert isinstance(part, Phrase)
            return _phrase_html(part, *_look(by_key[entity_key(part, index)]))

        def markup(index: int) -> str:
            part = parts[index]
            assert isinstance(part, Phrase)
            return escape(part.markup)

        settled = len(self._parts)
        marked = markdown_html(source, unfinished=unfinished)
        if marked is not None:
            pieces, found = self._marked.insert(marked, button, markup, settled=settled)
            if found == [index for index, part in enumerate(parts) if isinstance(part, Phrase)]:
                return [piece.replace(CARET, caret) if CARET in piece else piece for piece in pieces]
        # Lines of text; or Markdown that would lose a phrase, say in the address of a link.
        return [*self._lines.insert(escape(source), button, markup, settled=settled)[0], caret]


def _is_shown(part: str | Phrase) -> bool:
    """Markup that names no box is not."""
    return isinstance(part, str) or bool(part.boxes)


def _source(parts: Sequence[str | Phrase], first: int) -> str:
    """As Markdown, with placeholders for the phrases; `first`: the number of the first part."""
    return "".join(
        cleaned(part) if isinstance(part, str) else placeholder(index) for index, part in enumerate(parts, start=first)
    )


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
