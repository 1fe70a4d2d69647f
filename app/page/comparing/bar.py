"""Compare: the bar above the task buttons that says who answers beside the page's model, and with which settings.

What it shows is drawn by assets/scripts/compare.js from the value of a component of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import gradio as gr

from app.library.entry import BUSY, Entry
from app.library.library import ModelLibrary
from app.page.comparing.rival import sampling_of, typed_of
from app.page.handlers import Handlers
from app.page.notices import error_line, notice_of
from app.page.page_state import PageState, RivalChoice
from models.errors import MiniVLMError, RequestError
from models.model_info import ModelInfo
from models.sampling_settings import settings_of

PACE = 0.1  # seconds between two updates of the progress

_CONNECT = "window.minivlm.compare.connect(element, props, watch);"


class BarView(NamedTuple):
    """New values; what stays as it is, is skipped."""

    bar: Any = gr.skip()
    notice: Any = gr.skip()


def make_bar() -> gr.HTML:
    """The component, empty while nothing is compared."""
    return gr.HTML(
        None,
        html_template='<div class="mv-rival" role="group" aria-label="Compare" hidden></div>',
        js_on_load=_CONNECT,
        apply_default_css=False,
        elem_id="mv-compare",
    )


class CompareBar:
    """The listeners. Without a `library` the page's one model is compared with itself under other settings."""

    def __init__(self, handlers: Handlers, library: ModelLibrary | None) -> None:
        self._handlers, self._library = handlers, library

    def change(self, page: PageState, shown_key: str, event: gr.EventData) -> Iterator[BarView]:
        """Compare was switched on or off, another model was chosen for the right answer, or a setting was typed."""
        try:
            page = self._handlers.page_shown(page, shown_key)
            if event.on is not True:
                page.rival = None
                yield BarView(self._value(page), "")
                return
            if isinstance(event.values, dict) and page.rival is not None:
                info = self._info(page)
                values = typed_of(info, event.values)
                sampling_of(info, values)
                page.rival.values = values
                yield BarView(notice="")
                return
            yield from self._choose(page, str(event.model or self._first(page)))
        except MiniVLMError as error:
            yield BarView(self._value(page), notice_of(page, error))

    def show(self, page: PageState, kept_key: str) -> BarView:
        """The page was opened: the conversation that comes back may be one in which two are compared."""
        page = self._handlers.kept(kept_key) or page
        return BarView() if page.rival is None else BarView(self._value(page))

    def _choose(self, page: PageState, name: str) -> Iterator[BarView]:
        """Let this model answer beside the page's, once it is loaded; that one is not unloaded for it."""
        if self._library is not None:
            own = page.model or self._handlers.models.default_name
            entry = self._library.want(name, keeping=[own])
            before, page.rival = page.rival, RivalChoice(name)  # a question that comes meanwhile is told to wait
            while entry.state in BUSY:
                yield BarView(self._value(page, loading=entry), "")
                self._library.wait(1)
                time.sleep(PACE)
            if entry.state != "loaded":
                page.rival = before
                line = f"{entry.offer.name}: {entry.line or 'it was unloaded again.'}"
                yield BarView(self._value(page), error_line(line))
                return
        elif name:
            raise RequestError(f"There is no model {name[:80]!r} here.")
        else:
            page.rival = RivalChoice()
        yield BarView(self._value(page), "")

    def _first(self, page: PageState) -> str:
        """Whom one most likely wants to compare with: the other loaded model that was used last, else the same."""
        if self._library is None:
            return ""
        own = page.model or self._handlers.models.default_name
        others = [entry for entry in self._library.entries if entry.state == "loaded" and entry.offer.id != own]
        return max(others, key=lambda entry: entry.last_used).offer.id if others else own

    def _info(self, page: PageState) -> ModelInfo:
        model = self._handlers.models.rival_of(page)
        assert model is not None
        return model.info

    def _value(self, page: PageState, loading: Entry | None = None) -> dict[str, Any]:
        """What the script draws."""
        entries = self._library.entries if self._library is not None else ()
        offered = [(one.offer.id, one.offer.name) for one in entries if one.state not in ("not here", "downloading")]
        value: dict[str, Any] = {
            "on": page.rival is not None or loading is not None,
            "models": [{"id": name, "name": shown} for name, shown in offered],
            "model": page.rival.model if page.rival else "",
            "line": "",
            "settings": [],
        }
        if loading is not None:
            value["model"] = loading.offer.id
            value["line"] = f"{loading.offer.name} is loading: {loading.progress:.0%}"
        elif page.rival is not None:
            info = self._info(page)
            now = sampling_of(info, page.rival.values)
            value["settings"] = [
                {
                    "name": one.name,
                    "label": one.label,
                    "help": one.help,
                    "low": one.low,
                    "high": one.high,
                    "step": one.slider[2] if one.slider else 1,
                    "empty": one.when_empty,
                    "value": ""
                    if (given := getattr(now, one.name)) is None
                    else f"{given:g}"
                    if isinstance(given, float)
                    else str(given),
                }
                for one in settings_of(info.sampling)
            ]
        return value


def add_compare_bar(bar: CompareBar, demo: gr.Blocks, parts: Any, page: gr.State) -> None:
    """Who listens to the bar. `parts`: the components of the page."""
    streams: dict[str, Any] = {
        "outputs": [parts.compare, parts.notice],
        "show_progress": "hidden",
        "concurrency_limit": None,
        "concurrency_id": "library",
        "api_visibility": "private",
        "trigger_mode": "multiple",
    }
    demo.load(bar.show, [page, parts.key], js="(page) => [page, window.minivlm.keptKey()]", **streams)
    parts.bridge.compare(bar.change, [page, parts.key], **streams)
