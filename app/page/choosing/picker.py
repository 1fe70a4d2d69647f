"""The picker in the page's header: every model of the library with its state, and the page that follows the choice.

What it shows is drawn by assets/scripts/library.js from the value of a component of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr

from app.library.downloads import Downloads
from app.library.entry import BUSY, Entry
from app.library.library import ModelLibrary
from app.page.choosing.page_models import PageModels
from app.page.examples import Examples, examples_html
from app.page.fixed_texts import chips_html, model_html, placeholder_html, tasks_html
from app.page.handlers import Handlers
from app.page.notices import error_line, notice_of
from app.page.page_state import PageState
from app.page.settings import states
from app.page.stage import intro_html
from models.errors import MiniVLMError, RequestError
from models.memory.serving import size
from models.model_info import ModelInfo

PACE = 0.1  # seconds between two updates of the progress


class PickerView(NamedTuple):
    """New values of what depends on the model; what stays as it is, is skipped."""

    library: Any = gr.skip()
    chat: Any = gr.skip()
    chips: Any = gr.skip()
    tasks: Any = gr.skip()
    new_scene: Any = gr.skip()
    facts: Any = gr.skip()
    notice: Any = gr.skip()


class Picker:
    """The listeners."""

    def __init__(
        self,
        handlers: Handlers,
        library: ModelLibrary,
        examples: Examples,
        *,
        has_scenes: bool,
        downloads: Downloads | None = None,
    ) -> None:
        self._downloads = downloads
        self._handlers = handlers
        self._library = library
        self._examples = examples
        self._has_scenes = has_scenes

    def choose(self, page: PageState, shown_key: str, event: gr.EventData) -> Iterator[PickerView]:
        """Let another model answer from now on; loading it is shown. Answers that are being written go on."""
        try:
            page = self._handlers.page_shown(page, shown_key)
            yield from self._choose(page, str(event.model))
        except MiniVLMError as error:
            yield PickerView(library=self._value(page), notice=notice_of(page, error))

    def _choose(self, page: PageState, name: str) -> Iterator[PickerView]:
        """Raises RequestError for a model that can't be loaded."""
        entry = self._library.want(name)
        for value in self._changes(page, entry):
            yield PickerView(library=value, notice="")
        if entry.state != "loaded":
            line = error_line(f"{entry.offer.name}: {entry.line or 'it was unloaded again.'}")
            yield PickerView(library=self._value(page), notice=line)
            return
        page.model = name
        yield self._all(page, notice="")

    def watch(self, page: PageState) -> Iterator[PickerView]:
        """The picker was opened: show it, and what happens as long as something happens."""
        yield PickerView(library=self._value(page))
        if self._library.is_busy:
            for value in self._changes(page):
                yield PickerView(library=value)
            yield PickerView(library=self._value(page))

    def download(self, page: PageState, event: gr.EventData) -> Iterator[PickerView]:
        """Fetch what a model lacks; the picker shows how far it is. With `stop`, fetch no more of it."""
        try:
            if self._downloads is None:
                raise RequestError("This server does not let its visitors download models (--allow-download).")
            if event.stop is True:
                self._downloads.stop(str(event.model))
            else:
                self._downloads.want(str(event.model))
        except MiniVLMError as error:
            yield PickerView(library=self._value(page), notice=notice_of(page, error))
            return
        yield from self.watch(page)

    def show(self, page: PageState, kept_key: str, chosen: str) -> Iterator[PickerView]:
        """The page was opened: show the model of the conversation that comes back. A new one begins with the model that
        was `chosen` last in this browser, if it is still offered, else with one that is loaded."""
        kept = self._handlers.kept(kept_key)
        page = kept or page
        loaded = self._library.loaded()
        names = {one.offer.id for one in self._library.entries if one.state not in ("not here", "downloading")}
        if kept is None and isinstance(chosen, str) and chosen in names:
            yield PickerView()  # gradio would empty every part of the page for a listener that says nothing
            if chosen not in loaded or chosen != _name_of(self._handlers.models, page):
                try:
                    yield from self._choose(page, chosen)
                except MiniVLMError as error:
                    yield PickerView(notice=notice_of(page, error))
            return
        if kept is None and loaded and _name_of(self._handlers.models, page) not in loaded:
            entries = [entry for entry in self._library.entries if entry.offer.id in loaded]
            page.model = max(entries, key=lambda entry: entry.last_used).offer.id
        yield self._all(page) if page.model else PickerView()

    def _changes(self, page: PageState, entry: Entry | None = None) -> Iterator[dict[str, Any]]:
        """The picker's value, now and then, until this entry, or all, have come to rest."""
        while self._library.is_busy if entry is None else entry.state in BUSY:
            yield self._value(page)
            self._library.wait(1)
            time.sleep(PACE)

    def _all(self, page: PageState, **changes: Any) -> PickerView:
        """Everything that depends on the page's model."""
        info = self._handlers.models.of(page).info
        return PickerView(
            library=self._value(page, info),
            chat=self._handlers.messages(page, whole=True, placeholder=placeholder_html(info)),
            chips=chips_html(info),
            tasks=tasks_html(info),
            new_scene=gr.update(visible=self._has_scenes and info.is_toy),
            facts=model_html(info),
            **changes,
        )

    def _value(self, page: PageState, info: ModelInfo | None = None) -> dict[str, Any]:
        """What the script draws: all models, and, where the page's own is another now, what it has to know of it."""
        current = _name_of(self._handlers.models, page)
        value: dict[str, Any] = {
            "current": current,
            "models": [self._model_json(entry) for entry in self._library.entries],
        }
        if info is not None:
            examples = self._examples(info)
            intro = intro_html(info, examples_html(examples) if examples else "")
            value["page"] = {"name": info.name, "isToy": info.is_toy, "intro": intro, "settings": states(info)}
        return value

    def _model_json(self, entry: Entry) -> dict[str, Any]:
        offer, loaded = entry.offer, self._library.loaded().get(entry.offer.id)
        total = entry.num_bytes if entry.state == "downloading" else offer.num_bytes
        facts = [offer.family, size(offer.num_bytes) if offer.num_bytes else ""]
        if loaded is not None:
            info = loaded.model.info
            facts += [info.device, info.dtype, info.quantization if info.quantization != "none" else ""]
        return {
            "id": offer.id,
            "name": offer.name,
            "facts": " · ".join(filter(None, facts)),
            "state": entry.state,
            "progress": round(entry.progress, 2),
            "bytes": f"{size(int(entry.progress * total))} of {size(total)}" if total else "",
            "canFetch": self._downloads is not None and entry.state == "not here" and offer.lacks_files,
            "line": entry.line,
        }


def _name_of(models: PageModels, page: PageState) -> str:
    return page.model or models.default_name


def add_picker(picker: Picker, demo: gr.Blocks, parts: Any, page: gr.State) -> None:
    """The picker's own component and who listens to it. `parts`: the components of the page."""
    library = gr.HTML(
        None,
        html_template="<i></i>",
        js_on_load="window.minivlm.library.connect(element, props, watch);",
        elem_id="mv-library",
        visible="hidden",
    )
    view = [library, parts.chat, parts.chips, parts.hint, parts.new_scene, parts.facts, parts.notice]
    streams: dict[str, Any] = {
        "outputs": view,
        "show_progress": "hidden",
        "concurrency_limit": None,
        "concurrency_id": "library",
        "api_visibility": "private",
        "trigger_mode": "multiple",
    }
    restore = "(...values) => window.minivlm.library.settings(values)"
    kept = "(page) => [page, window.minivlm.keptKey(), window.minivlm.keptModel()]"
    shown = demo.load(picker.show, [page, parts.key, library], js=kept, **streams)
    shown.then(None, parts.settings, parts.settings, js=restore)
    chosen = parts.bridge.choose_model(picker.choose, [page, parts.key], **streams)
    chosen.then(None, parts.settings, parts.settings, js=restore)
    parts.bridge.models(picker.watch, [page], **streams)
    parts.bridge.download(picker.download, [page], **streams)
