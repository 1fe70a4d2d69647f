"""Gradio listeners that are sent values they can't use: one line for the sender and one in the log, no traceback."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
import uuid
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import gradio as gr

from app.limits.addresses import SCOPE_KEY
from app.limits.budgets import Metered, ProcessorShare
from app.limits.refusal import printable
from app.limits.route_kinds import LONGEST_PATH
from engine.asker import ASKER, NOBODY
from models.errors import MiniVLMError

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRACEBACKS = 3600.0  # of one place in the code
SECONDS_BETWEEN_LINES = 10.0  # about it
PLACES = 256
NUMBERS = ("index", "step")  # in what the page's script sends with an event, where they are whole
TRACEBACK_LINES, LONGEST_LINE = 60, 300
MOST_FILES = 100  # of one call


class UnusableValues(Exception):
    """What was sent is no input of the listener, which is a fault of its sender: its line has no traceback."""


@dataclass
class _Place:
    """A place in the code that failed, and what was said about it."""

    number: str = ""  # that its last line can be found by
    written: float = -inf
    traced: float = -inf
    unsaid: int = 0  # failures since its last line


class BoundedBlocks(gr.Blocks):
    """gr.Blocks whose listeners fail in one line, whatever is sent to them; gradio prints a traceback each time."""

    _failed: dict[str, _Place]
    processor: ProcessorShare | None = None  # of the server's thread, once it serves others

    async def process_api(self, *args: Any, **settings: Any) -> Any:
        """As gr.Blocks.process_api. Raises gr.Error for everything that goes wrong."""
        scope = getattr(getattr(settings.get("request"), "request", None), "scope", {})
        ASKER.set(scope.get(SCOPE_KEY, NOBODY))  # for what comes out of the queue, whose task is not the request's
        try:
            _check_event(settings["block_fn"], settings.get("event_data"))
            if self.processor is None or not settings.get("event_id"):
                return await super().process_api(*args, **settings)
            # A step of a question, out of the queue: no request counts it, and none has waited for it.
            asker = ASKER.get()
            await self.processor.turn(asker)
            return await Metered(super().process_api(*args, **settings), partial(self.processor.took, asker))
        except asyncio.CancelledError as error:
            if settings.get("event_id"):
                raise
            # The server ends. For a press gradio takes that as any error, and would print each.
            raise gr.Error("The server was stopped.", print_exception=False) from error
        except gr.Error as error:
            error.print_exception = False  # gradio's own, about files that are not the visitor's, would print theirs
            raise
        except MiniVLMError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            number = self._log(error)
            message = f"That could not be done. The program's log says more under {number}."
            raise gr.Error(message, print_exception=False) from error

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **settings: Any) -> Any:
        """As gr.Blocks.preprocess_data. Raises UnusableValues for what a component can't take, and gr.Error for a file
        that is an address, which gradio would fetch."""
        _check_files(inputs)
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **settings)
        except (gr.Error, OSError):  # a full disk is no fault of the values
            raise
        except Exception as error:
            raise UnusableValues(f"values that {block_fn.api_name} can't use") from error

    def get_state_ids_to_track(self, *_: Any) -> tuple[list[int], list[Any]]:
        """None: no listener waits for a change of a visitor's state, so gradio need not compare it after each call."""
        return [], []

    def _log(self, error: Exception) -> str:
        """One line, with the traceback if this place had none lately; or none, as the audit lines of one reason. The
        number that they are found by."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        name = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
        if isinstance(error, UnusableValues):
            name = str(error)
        places = self.__dict__.setdefault("_failed", {})
        place = places.setdefault(name if name in places or len(places) < PLACES else "elsewhere", _Place())
        now = time.monotonic()
        if now - place.written < SECONDS_BETWEEN_LINES:
            place.unsaid += 1
            return place.number
        is_new = now - place.traced >= SECONDS_BETWEEN_TRACEBACKS and not _is_of_sender(error)
        more = f" ({place.unsaid} more like it since the last line)" if place.unsaid else ""
        place.number, place.written, place.unsaid = uuid.uuid4().hex[:8], now, 0
        if is_new:
            place.traced = now
        logger.error("%s (%s)%s%s", name, place.number, more, _traceback(error) if is_new else "")
        return place.number


def _check_event(listener: Any, event: gr.EventData | None) -> None:
    """See that a listener of events can read what was sent with one. Raises UnusableValues."""
    if event is None or not listener.collects_event_data:
        return
    data = event._data
    if not isinstance(data, dict):
        raise UnusableValues(f"values of an event that {listener.api_name} can't use")
    for name in NUMBERS:
        if data.get(name) is None:  # of a button that has none the page's script sends "not a number"
            data.pop(name, None)
        elif not isinstance(data[name], int):
            raise UnusableValues(f"values of an event that {listener.api_name} can't use")


def _is_of_sender(error: Exception) -> bool:
    """Whether what was sent is no input of the listener, or an event lacks what it looks for."""
    lacks = isinstance(error, AttributeError) and isinstance(error.obj, gr.EventData)
    return lacks or isinstance(error, UnusableValues)


def _traceback(error: Exception) -> str:
    """Its last lines, of what a terminal shows and nothing else, and none that could be an entry of the log: a visitor
    may have chosen what the error says."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "".join(f"\n    {printable(line, LONGEST_LINE)}" for line in lines[-TRACEBACK_LINES:])


def _check_files(values: Any) -> None:
    """Raise gr.Error where a file that is sent, wherever in these values, is elsewhere; or where there are too many."""
    num_files, left = 0, [values]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += value.values()
            if isinstance(path := value.get("path"), str) and "meta" in value:
                num_files += 1
                if len(path) > LONGEST_PATH:
                    raise gr.Error("A file has a name that is too long.", print_exception=False)
                if "://" in path:
                    message = "This server fetches no address. Download the file, and upload it."
                    raise gr.Error(message, print_exception=False)
    if num_files > MOST_FILES:
        raise gr.Error(f"{num_files} files at once; the limit is {MOST_FILES}. Remove some.", print_exception=False)
