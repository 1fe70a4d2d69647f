"""How much of the engine is in use: `/metrics` in the text format of Prometheus, and a line in the log now and then."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradio.routes import App

    from app.engine import ChatEngine, EngineStats

logger = logging.getLogger(__name__)
LOG_INTERVAL = 60.0  # seconds between two lines, which are written only while something happens

_HELP = {
    "active": "Questions that are being answered.",
    "waiting": "Questions in the queue.",
    "in_loop": "Requests in the generation loop.",
    "known_to_loop": "Requests whose reader has not let go of them.",
    "pages_in_use": "Pages of keys and values in use by running answers.",
    "images_pinned": "Images in use by running answers.",
    "pages_kept": "Pages kept for the next question of some chat.",
    "pages_total": "Pages of keys and values, fixed at the start.",
    "images_held": "Encoded images in memory.",
    "image_slots": "Places for encoded images, fixed at the start.",
    "page_bytes": "Bytes of one page, all layers.",
    "image_bytes": "Bytes of one place for an image.",
    "copy_bytes": "Bytes set aside for keys and values that are decoded without pages, fixed at the start.",
    "images_encoded": "Images encoded since the start.",
    "images_reused": "Images found in memory since the start.",
    "prompt_tokens": "Prompt tokens since the start.",
    "prompt_tokens_reused": "Prompt tokens found in memory since the start.",
    "restarts": "Restarts of the generation loop after an error.",
    "steps_captured": "Decoding steps held as CUDA graphs; constant after the start.",
}
_TOTALS = ("images_encoded", "images_reused", "prompt_tokens", "prompt_tokens_reused", "restarts")


def as_text(stats: EngineStats) -> str:
    """The counters in Prometheus' text format 0.0.4."""
    lines: list[str] = []
    for name, value in dataclasses.asdict(stats).items():
        is_total = name in _TOTALS
        metric = f"minivlm_{name}{'_total' if is_total else ''}"
        lines += [
            f"# HELP {metric} {_HELP[name]}",
            f"# TYPE {metric} {'counter' if is_total else 'gauge'}",
            f"{metric} {value}",
        ]
    return "\n".join(lines) + "\n"


def as_line(stats: EngineStats) -> str:
    """The counters that tell how full the engine is, on one line."""
    mib = 2**20
    pages = stats.pages_in_use + stats.pages_kept
    return (
        f"{stats.active} answering, {stats.waiting} waiting; keys and values {pages * stats.page_bytes / mib:.0f} of "
        f"{stats.pages_total * stats.page_bytes / mib:.0f} MiB ({stats.pages_in_use} pages in use, {stats.pages_kept} "
        f"kept), {stats.copy_bytes / mib:.0f} MiB more to decode in; images "
        f"{stats.images_held * stats.image_bytes / mib:.1f} of "
        f"{stats.image_slots * stats.image_bytes / mib:.1f} MiB ({stats.images_pinned} in use)"
    )


def add_metrics(app: App, engine: ChatEngine) -> None:
    """Serve `/metrics` beside the page. It holds numbers only, so it asks for no password."""
    from gradio.routes import Response

    def metrics() -> Response:
        return Response(as_text(engine.stats()), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_api_route("/metrics", metrics, methods=["GET"], include_in_schema=False)
    app.router.routes.insert(0, app.router.routes.pop())  # before the page's own routes, which take every name


def log_to_stderr() -> None:
    """Let the lines of this module be seen; the rest of the program logs warnings only."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class UsageLog:
    """Writes how full the engine is, at the start and then whenever it was used since the last line."""

    def __init__(self, engine: ChatEngine, *, interval: float = LOG_INTERVAL) -> None:
        self._engine = engine
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage log", daemon=True)

    def __enter__(self) -> UsageLog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        before: EngineStats | None = None
        while True:
            stats = self._engine.stats()
            if stats != before:
                logger.info(as_line(stats))
            before = stats
            if self._stopped.wait(self._interval):
                return
