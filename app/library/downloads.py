"""Fetching what a configuration of the library lacks: one after the other, in a thread, every byte counted."""

from __future__ import annotations

import logging
import queue
import threading

from app.library.entry import Entry
from app.library.library import ModelLibrary
from models.errors import MiniVLMError, RequestError

logger = logging.getLogger(__name__)

STOPPED = "The download was stopped. What has come is kept, and the next one goes on from there."


class _NotWanted(Exception):
    """Somebody does not want a download any more."""


class Downloads:
    """Downloads for a library. Entries say how far they are; afterwards they are here, or say what went wrong."""

    def __init__(self, library: ModelLibrary) -> None:
        self._library = library
        self._wanted: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._unwanted: set[str] = set()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def want(self, name: str) -> Entry:
        """Let an offer's files be fetched; returns at once. Raises RequestError where nothing can be fetched."""
        entry = self._library.entry(name)
        with self._lock:
            if entry.state == "downloading":
                return entry
            if entry.state != "not here" or not entry.offer.lacks_files:
                raise RequestError(f"{entry.offer.name} lacks no files that could be downloaded.")
            self._unwanted.discard(name)
            self._library.note(entry, state="downloading", progress=0.0, line="Waiting for its turn.")
            self._wanted.put(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="downloads", daemon=True)
                self._thread.start()
        return entry

    def stop(self, name: str) -> None:
        """Fetch no more of it; what has come stays."""
        entry = self._library.entry(name)
        if entry.state == "downloading":
            self._unwanted.add(name)
            self._library.note(entry, line="Stopping.")

    def close(self) -> None:
        """Stop all of them, without waiting for servers that say nothing."""
        self._unwanted.update(entry.offer.id for entry in self._library.entries)
        self._wanted.put(None)

    def __enter__(self) -> Downloads:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while (entry := self._wanted.get()) is not None:
            line = ""
            try:
                line = self._fetch(entry)
            except _NotWanted:
                line = STOPPED
            except MiniVLMError as error:
                line = str(error)
            except Exception:
                logger.exception("%s could not be downloaded", entry.offer.id)
                line = "It could not be downloaded; the server's log says why."
            self._library.look_again(entry, line)

    def _fetch(self, entry: Entry) -> str:
        """What there is to say afterwards."""
        from models.config import load_config
        from models.fetching.fetch import fetch
        from models.fetching.plan import make_plan

        name, notes = entry.offer.id, list[str]()
        come = 0

        def check_wanted() -> None:
            if name in self._unwanted:
                raise _NotWanted

        check_wanted()
        self._library.note(entry, line="Asking the servers what there is.")
        plan = make_plan(load_config(entry.offer.path, entry.offer.overrides))
        entry.num_bytes = sum(item.missing_bytes for item in plan.items)
        check_wanted()
        self._library.note(entry, line="")

        def on_bytes(count: int) -> None:
            nonlocal come
            check_wanted()
            come += count
            share = min(1.0, come / entry.num_bytes) if entry.num_bytes else 0.0
            if abs(share - entry.progress) >= 0.01 or share == 1.0:
                self._library.note(entry, progress=share)

        fetch(plan, report=notes.append, on_bytes=on_bytes)
        return " ".join(notes)
