"""Gradio listeners that are sent values they can't use: one line for the sender and one in the log, no traceback."""

from __future__ import annotations

import logging
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

import gradio as gr

from app.limits.addresses import SCOPE_KEY
from engine.asker import ASKER, NOBODY
from models.errors import MiniVLMError

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRACEBACKS = 3600.0  # of one place in the code
PLACES = 256


class BoundedBlocks(gr.Blocks):
    """gr.Blocks whose listeners fail in one line, whatever is sent to them; gradio prints a traceback each time."""

    _traced: dict[str, float]

    async def process_api(self, *args: Any, **settings: Any) -> Any:
        """As gr.Blocks.process_api. Raises gr.Error for everything that goes wrong."""
        scope = getattr(getattr(settings.get("request"), "request", None), "scope", {})
        ASKER.set(scope.get(SCOPE_KEY, NOBODY))  # for what comes out of the queue, whose task is not the request's
        try:
            return await super().process_api(*args, **settings)
        except gr.Error:
            raise
        except MiniVLMError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            number = self._log(error)
            message = f"That could not be done. The program's log says more under {number}."
            raise gr.Error(message, print_exception=False) from error

    def get_state_ids_to_track(self, *_: Any) -> tuple[list[int], list[Any]]:
        """None: no listener waits for a change of a visitor's state, so gradio need not compare it after each call."""
        return [], []

    def _log(self, error: Exception) -> str:
        """One line, and the traceback if this place had none lately; the number that both are found by."""
        number = uuid.uuid4().hex[:8]
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
        traced = self.__dict__.setdefault("_traced", {})
        now = time.monotonic()
        is_new = now - traced.get(place, -SECONDS_BETWEEN_TRACEBACKS) >= SECONDS_BETWEEN_TRACEBACKS
        if is_new and len(traced) < PLACES:
            traced[place] = now
            logger.error("%s (%s)", place, number, exc_info=error)
        else:
            logger.error("%s (%s)", place, number)
        return number
