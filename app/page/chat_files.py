"""The chat as a file: saving it as a page or as JSON, and opening the JSON again."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app.chat.exchange import Exchange, now
from app.chat.saved import chat_json, read_chat
from app.page.boxes.box_tool import tool_value
from app.page.bubble_parts import shown_model
from app.page.handlers import Handlers
from app.page.long_work import LONG_WORK
from app.page.notices import notice_of
from app.page.page_state import PageState
from app.page.saved_page import chat_file_name, chat_html
from app.page.view import View, idle
from models.errors import MiniVLMError, RequestError

MOST_SHOWN = 16 * 2**20  # characters of HTML; 4 MiB of text can become seventy


def menu_html() -> str:
    """The menu in the page's header; chat_file.js opens and closes it."""
    return (
        '<details class="mv-menu"><summary class="mv-action">Chat</summary><div class="mv-menu-items">'
        '<button type="button" class="mv-action mv-compare-item" data-compare aria-pressed="false">Compare two answers'
        "</button>"
        '<button type="button" class="mv-action" data-action="save_html">Save as a page (HTML)</button>'
        '<button type="button" class="mv-action" data-action="save_json">Save to open again (JSON)</button>'
        '<button type="button" class="mv-action" data-chat="open">Open a saved chat…</button></div></details>'
    )


def add_chat_files(
    handlers: Handlers,
    bridge: gr.HTML,
    page: gr.State,
    quick: dict[str, Any],
    notice: gr.HTML,
) -> None:
    """The listeners of the menu. `quick`: how the page's short listeners are called, with its view as outputs."""
    # A file goes to the browser as a value that nothing shows. As a file of the server it could be fetched by others.
    file = gr.HTML("", html_template="", elem_id="mv-chat-file", visible="hidden")
    chosen = gr.UploadButton("Open", file_types=[".json"], elem_id="mv-open-chat", visible="hidden")
    files = ChatFiles(handlers)
    saving = {**quick, "outputs": [file, notice]}
    take = "(value) => window.minivlm.saveFile(value)"
    bridge.save_html(files.save_html, [page], **saving).then(None, [file], [file], js=take)
    bridge.save_json(files.save_json, [page], **saving).then(None, [file], [file], js=take)
    chosen.upload(files.open, [page, chosen], **quick)


class ChatFiles:
    """The listeners: a page comes in, and a file for the browser or a new view of the page goes out."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    def save_html(self, page: PageState) -> tuple[Any, Any]:
        """The conversation as a page of its own."""
        return self._save(page, "html")

    def save_json(self, page: PageState) -> tuple[Any, Any]:
        """The conversation as JSON, for `open`."""
        return self._save(page, "json")

    def _save(self, page: PageState, kind: str) -> tuple[Any, Any]:
        """Name and text of the file, as JSON, and the page's notice."""
        exchanges = list(page.session.exchanges)
        try:
            page.session.check_free()
            if not exchanges:
                raise RequestError("There is nothing to save yet: ask something first.")
        except MiniVLMError as error:
            return "", notice_of(page, error)
        write = {"html": chat_html, "json": chat_json}[kind]
        try:
            with LONG_WORK.turn():
                text = write(exchanges, saved=now())
        except RequestError as error:
            return "", notice_of(page, error)
        file = json.dumps({"name": chat_file_name(exchanges, kind), "text": text})
        return file.replace("<", "\\u003c"), notice_of(page)  # gradio warns of a script that it would not run

    def open(self, page: PageState, path: str | None) -> View:
        """The conversation of a saved file takes the place of the one that is there."""
        name = Path(path or "").name
        try:
            page.session.check_free()
            if path is None:
                raise RequestError("There is no file to open. Choose one.")
            exchanges = self._read(path, name, page)
        except MiniVLMError as error:
            return View(notice=notice_of(page, error))
        draft = page.cancel_edit()
        store = self._handlers.store
        store.drop(page.session.key)
        page.restore(exchanges)
        store.keep(page.session.key, page)
        messages = self._handlers.messages(page)
        line = f'<p class="mv-info" role="status">{escape(self._describe(name, page))}</p>'
        question = idle(value=draft) if draft else idle()
        return View(messages, question, line, tool_value(page.picture, clear=True), page, page.session.key)

    def _read(self, path: str, name: str, page: PageState) -> list[Exchange]:
        """The conversation of a file. Raises RequestError, also for one that the page could not show."""
        exchanges = read_chat(_content(path, name), self._handlers.models.ready(page), name=name)
        opened = PageState(model=page.model)
        opened.restore(exchanges)
        try:
            with LONG_WORK.turn():
                self._handlers.messages(opened, most=MOST_SHOWN)
        except RequestError as error:
            raise RequestError(f"{name} can't be opened: its texts and boxes are more than the page shows.") from error
        return exchanges

    def _describe(self, name: str, page: PageState) -> str:
        exchanges = page.session.exchanges
        answered = dict.fromkeys(one.model for one in exchanges if one.model)
        count = f"{len(exchanges)} question{'s' if len(exchanges) > 1 else ''}"
        own = self._handlers.models.of(page).info.name
        others = ", ".join(shown_model(model) for model in answered if model != own)
        return f"Opened {name}: {count}." + (f" Answered by {others}; from here on {own} answers." if others else "")


def _content(path: str, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"{name} can't be read ({error.strerror}). Choose it again.") from error
