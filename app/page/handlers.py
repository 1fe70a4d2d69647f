"""What happens when something is pressed: values in, values out. components.py connects each to its components."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import gradio as gr

from app.chat.conversation_store import ConversationStore
from app.chat.exchange import Exchange
from app.chat.questions import check_number_of_images, without_box
from app.chat.shelf import Shelf
from app.page.boxes.box_tool import box_of, tool_value
from app.page.choosing.page_models import PageModels
from app.page.comparing.rival import rival_of
from app.page.conversation_component import conversation_value
from app.page.examples import Examples, no_examples
from app.page.messages import messages_of
from app.page.notices import LOST, LOST_AT_START, error_line, notice_of
from app.page.page_state import PageState
from app.page.question.attachments import Attachments, draft_of, is_filled
from app.page.question.box import taken_from_box
from app.page.question.scratch import ScratchFolder
from app.page.settings import read_settings
from app.page.view import View, answering, idle
from engine.chat_model import ChatModel
from models.errors import MiniVLMError, RequestError

MOST_ROUTING_VIEWS = 4  # open at once: each is as long as a conversation; the oldest closes


class Handlers:
    """The listeners. The page of whoever pressed something comes in as `page` and is changed in place."""

    def __init__(
        self,
        model: ChatModel,
        *,
        examples: Examples = no_examples,
        store: ConversationStore[PageState] | None = None,
        models: PageModels | None = None,
        is_rated: bool = False,
    ) -> None:
        self._is_rated = is_rated
        self.models = models or PageModels(model)
        self.store = store if store is not None else ConversationStore[PageState](shelf=Shelf())
        self._examples = examples
        self.attachments = Attachments(ScratchFolder())

    def ask(self, page: PageState, shown_key: str, value: dict[str, Any], tool: Any, *settings: Any) -> Iterator[View]:
        """Send the text box. It is emptied only once the question has been accepted."""
        taken = taken_from_box(value["text"], value["files"])
        yield from self._ask(page, shown_key, value, tool, settings, taken=taken)

    def ask_text(
        self, page: PageState, shown_key: str, value: dict[str, Any], tool: Any, event: gr.EventData, *settings: Any
    ) -> Iterator[View]:
        """Ask this about the picture in the text box, or the one before. What was typed there stays."""
        asked = {"text": str(event.text), "files": value["files"]}
        yield from self._ask(page, shown_key, asked, tool, settings, taken=taken_from_box("", value["files"]))

    def _ask(
        self, page: PageState, shown_key: str, value: dict[str, Any], tool: Any, settings: Sequence[Any], **changes: Any
    ) -> Iterator[View]:
        """Ask `value`; `changes` are made to the page, beside what shows the answer, once it has been accepted."""
        try:
            page = self.page_shown(page, shown_key)
            draft, model = page.draft, self.models.ready(page)
            check_number_of_images(len(value["files"]), model.info)  # before any of them is decoded
            pictures = page.attach(value["files"])
            sampling, extras = read_settings(model.info, settings)
            rival = rival_of(page, self.models, extras)
            box = box_of(tool)
            updates = page.ask(model, value["text"], pictures, sampling, extras, box=box, rival=rival)
            self.store.keep(page.session.key, page)
        except MiniVLMError as error:
            yield View(notice=notice_of(page, error))
            return
        if draft:  # what was in the text box before the edit that was sent
            question, changes = answering(value=draft), {}
        else:
            question = answering()
        page.draft = None
        tool = tool_value(page.picture, clear=box or False)  # one that was drawn since then stays
        yield View(self.messages(page), question, "", tool, page, page.session.key, **changes)
        yield from self._follow(page, updates)

    def retry(self, page: PageState, *settings: Any) -> Iterator[View]:
        """Answer the last question again, with the current settings. An edit that has begun is given up."""
        try:
            model = self.models.ready(page)
            sampling, extras = read_settings(model.info, settings)
            updates = page.retry(model, sampling, extras, rival=rival_of(page, self.models, extras))
            self.store.keep(page.session.key, page)
        except MiniVLMError as error:
            yield View(notice=notice_of(page, error))
            return
        draft = page.cancel_edit()
        yield View(self.messages(page), answering(value=draft) if draft else answering(), "")
        yield from self._follow(page, updates)

    def page_shown(self, page: PageState, shown_key: str) -> PageState:
        """The page state that goes with the conversation `shown_key`, which the browser shows.

        It is `page`, unless gradio has forgotten this tab's state meanwhile and made a new one: then the store has it.
        Raises RequestError if the store has forgotten it, too.
        """
        if not shown_key or shown_key == page.session.key:
            return page
        kept = self.kept(shown_key)
        if kept is None:
            raise RequestError(LOST)
        return kept

    def kept(self, key: object) -> PageState | None:
        """The conversation whose key a browser kept; None if it is not there any more, and for what is no key."""
        return self.store.get(key) if key and isinstance(key, str) else None

    def resume(self, kept_key: str) -> Iterator[View]:
        """The page was opened: show the conversation whose key this browser kept, and go on showing its answer."""
        if not kept_key:
            yield View()  # gradio would empty every part of the page for a listener that says nothing
            return
        kept = self.kept(kept_key)
        if kept is None:
            yield View(notice=error_line(LOST_AT_START), key="")
            return
        is_answering = kept.is_answering  # once: an answer that ends meanwhile must still be drawn to its end
        question = answering() if is_answering else idle()
        tool = tool_value(kept.picture, clear=True)
        yield View(self.messages(kept, whole=True), question, notice_of(kept), tool, kept, kept.session.key)
        if is_answering:
            yield from self._follow(kept, kept.session.watch())

    def leave(self, page: PageState) -> None:
        """Its last tab was closed, or its connection was lost."""
        self.store.leave(page.session.key)

    def _follow(self, page: PageState, updates: Iterator[Exchange]) -> Iterator[View]:
        shown: Any = None
        for exchange in updates:
            state = [(one.answer, one.error) for one in exchange.answers]
            # Nothing new is sent all the same: gradio notices only then that the tab was closed.
            yield View(self.messages(page) if state != shown else gr.skip())
            shown = state
        refused, page.refused_meanwhile = page.refused_meanwhile, False
        yield View(self.messages(page), idle(), notice_of(page) if refused else gr.skip())

    def stop(self, page: PageState) -> None:
        """End the running answer; its own listener then draws the rest."""
        page.stop()

    def reset(self, page: PageState) -> View:
        """New chat; what is in the text box stays, or comes back to it after an edit."""
        draft = page.cancel_edit()
        self.store.drop(page.session.key)
        page.reset()
        question = idle(value=draft) if draft else idle()
        return View(self.messages(page), question, "", tool_value(page.picture, clear=True), key=page.session.key)

    def undo(self, page: PageState, value: dict[str, Any]) -> View:
        """Take the last question back into the text box, unless something else has been typed there."""
        was_editing = page.editing is not None
        exchange = page.undo()
        if exchange is None:
            return View()
        draft = page.cancel_edit()
        if draft:
            question = idle(value=draft)
        else:
            question = (
                idle() if is_filled(value) and not was_editing else idle(value=self._question_value(page, exchange))
            )
        tool = tool_value(page.picture, clear=True) if draft else self._tool_of(page, exchange)
        return View(self.messages(page), question, "", tool)

    def edit(self, page: PageState, value: dict[str, Any], event: gr.EventData) -> View:
        """Put an earlier question into the text box; sending it replaces that question and all after it."""
        try:
            draft = page.draft or draft_of(value)
            exchange = page.edit(int(event.index))
        except RequestError as error:
            return View(notice=notice_of(page, error))
        page.draft = draft
        tool = self._tool_of(page, exchange)
        return View(self.messages(page), gr.update(value=self._question_value(page, exchange)), notice_of(page), tool)

    def branch(self, page: PageState, event: gr.EventData) -> View:
        """Show the conversation with another version of question `event.index`, which a retry or an edit has replaced.

        `event.step` is 1 for the next version and -1 for the one before, in a circle.
        """
        try:
            page.switch(int(event.index), int(event.step))
        except RequestError as error:
            return View(notice=notice_of(page, error))
        draft = page.cancel_edit()
        question = gr.update(value=draft) if draft else gr.skip()
        return View(self.messages(page), question, "", tool_value(page.picture, clear=True))

    def go_on(self, page: PageState, event: gr.EventData) -> View:
        """Of two answers, the conversation goes on with this one."""
        try:
            page.session.go_on_with(int(event.index), str(event.side))
        except RequestError as error:
            return View(notice=notice_of(page, error))
        return View(self.messages(page), notice=notice_of(page))

    def cancel_edit(self, page: PageState) -> View:
        """Leave the conversation as it is and give the text box its former content."""
        draft = page.cancel_edit()
        tool = tool_value(page.picture, clear=True)
        return View(self.messages(page), gr.update(value=draft or {"text": "", "files": []}), "", tool)

    def routing(self, page: PageState, event: gr.EventData) -> View:
        """Show which experts the tokens of an answer went to, or close that view again."""
        index = int(event.index)
        session, model = page.session, self.models.of(page)
        if not 0 <= index < len(session.exchanges) or not model.info.has_experts:
            return View()
        exchange = session.exchanges[index]
        if page.routing.pop(exchange, None) is None:
            try:
                trace = model.routing(session.turns(index, model), exchange.text, exchange.sampling)
            except MiniVLMError as error:
                return View(notice=notice_of(page, error))
            page.routing[exchange] = trace
            if len(page.routing) > MOST_ROUTING_VIEWS:
                del page.routing[next(iter(page.routing))]
        return View(self.messages(page))

    def example(
        self, page: PageState, shown_key: str, tool: Any, event: gr.EventData, *settings: Any
    ) -> Iterator[View]:
        """An example card: its question is asked about its picture. What was typed stays."""
        examples, index = self._examples(self.models.of(page).info), int(event.index)
        if not 0 <= index < len(examples):
            raise RequestError("There is no such example. Load the page again.")
        example = examples[index]
        asked = {"text": example.question, "files": [str(example.path)]}
        yield from self._ask(page, shown_key, asked, tool, settings)

    def look(self, page: PageState, event: gr.EventData) -> Iterator[View]:
        """Another tab has changed the conversation; or, with `whole`, this one knows too little of it."""
        is_whole, is_answering = bool(event.whole), page.is_answering
        question = answering() if is_answering else idle()
        yield View(self.messages(page, whole=is_whole), question, key=page.session.key)
        if is_answering and not is_whole:  # otherwise it is being followed
            yield from self._follow(page, page.session.watch())

    def messages(
        self, page: PageState, *, whole: bool = False, placeholder: str = "", most: float = inf
    ) -> dict[str, Any]:
        """The conversation as the page is told of it; as `conversation_value`, and `messages_of` for `most`."""
        info = self.models.of(page).info
        bubbles = messages_of(
            page,
            has_experts=info.has_experts,
            context_tokens=info.context_tokens,
            names_models=self.models.has_choice,
            current=info.name,
            is_rated=self._is_rated,
            most=most,
        )
        return conversation_value(page, bubbles, whole=whole, placeholder=placeholder)

    def _question_value(self, page: PageState, exchange: Exchange) -> dict[str, Any]:
        """A question as the text box's content, without its box: `_tool_of`."""
        text, _ = without_box(exchange.question, self.models.of(page).info.tasks)
        return {"text": text, "files": [self.attachments.file_of(picture) for picture in exchange.pictures]}

    def _tool_of(self, page: PageState, exchange: Exchange) -> dict[str, Any]:
        """What the stage shows while this question is in the text box: its picture, or the one before, and its box."""
        _, box = without_box(exchange.question, self.models.of(page).info.tasks)
        picture = exchange.pictures[-1] if exchange.pictures else page.picture
        return tool_value(picture, attached=exchange.pictures, box=box, clear=True)
