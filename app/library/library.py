"""ModelLibrary: owns every model that is loaded, and loads and unloads them one at a time, in one thread.

Who asks has a `LibraryModel`, a ChatModel under the offer's name that is there whether or not it is loaded. Each answer
holds a lease, and a model is let go only once nobody holds one.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Collection, Mapping, Sequence

from app.library.entry import BUSY, Entry, EntryState, Loaded, Loader
from app.library.leased import LibraryModel
from app.library.offers import Offer, describe
from engine.chat_model import ChatModel
from engine.stats import Counters
from models.errors import MiniVLMError, NotEnoughMemory, NotLoaded, RequestError
from models.memory.serving import size

logger = logging.getLogger(__name__)


class ModelLibrary:
    """`offers` in the order in which they are shown; `max_loaded` at once, or as many as fit into memory."""

    def __init__(self, offers: Sequence[Offer], loader: Loader, *, max_loaded: int | None = None) -> None:
        self._loader = loader
        self._max_loaded = max_loaded
        self._changed = threading.Condition()
        self._entries = {
            offer.id: Entry(offer, "not here" if offer.problem else "here", line=offer.problem) for offer in offers
        }
        self._models = {name: LibraryModel(self, name) for name in self._entries}
        self._wanted: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def entries(self) -> Sequence[Entry]:
        """All of them; to be read, not changed."""
        return tuple(self._entries.values())

    @property
    def is_busy(self) -> bool:
        """Whether something is being fetched, loaded or unloaded, or waits for it."""
        return any(entry.state in BUSY for entry in self._entries.values())

    def model(self, name: str) -> LibraryModel:
        """The model of this name, loaded or not. Raises RequestError for an unknown name."""
        self.entry(name)
        return self._models[name]

    def entry(self, name: str) -> Entry:
        """The offer of this name, with its state. Raises RequestError for an unknown name."""
        if name not in self._entries:
            raise RequestError(f"There is no model {name[:80]!r} here.")
        return self._entries[name]

    def loaded(self) -> Mapping[str, Loaded]:
        """What can be asked now."""
        found = ((name, entry.loaded) for name, entry in list(self._entries.items()) if entry.state == "loaded")
        return {name: loaded for name, loaded in found if loaded is not None}

    def stats(self) -> dict[str, Counters]:
        """The counters of each model that is loaded."""
        return {name: loaded.stats() for name, loaded in self.loaded().items()}

    def load(self, name: str) -> None:
        """Load a model now, in this thread, before the others may be asked for. Raises MiniVLMError."""
        entry = self.entry(name)
        if entry.offer.problem:
            raise NotLoaded(entry.offer.problem)
        self._load(entry)

    def want(self, name: str, *, keeping: Collection[str] = ()) -> Entry:
        """Let a model be loaded, unless it is already or is on its way; those named in `keeping` stay for it.

        Returns at once; `wait` tells when something has changed. Raises RequestError if it can't be loaded.
        """
        with self._changed:
            entry = self.entry(name)
            if self._is_closed:
                raise RequestError("The server is being stopped.")
            if entry.state == "not here":
                raise RequestError(f"{entry.offer.name} can't be loaded. {entry.line}")
            if entry.state == "downloading":
                raise RequestError(f"{entry.offer.name} is being downloaded. Choose it once it is here.")
            if entry.state in ("here", "unloading") and not entry.is_wanted:
                entry.line, entry.is_wanted, entry.keeping = "", True, frozenset(keeping)
                if entry.state == "here":
                    entry.state, entry.progress = "waiting", 0.0
                self._wanted.put(entry)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="library", daemon=True)
                    self._thread.start()
                self._changed.notify_all()
            return entry

    def wait(self, seconds: float) -> None:
        """Until something has changed, at most so long."""
        with self._changed:
            self._changed.wait(seconds)

    def look(self) -> list[str]:
        """Ask no more of models whose files have changed under them; a line about each, once."""
        lines = []
        for name, loaded in self.loaded().items():
            if reason := loaded.changed():
                lines.append(reason)
                entry = self._entries[name]
                with self._changed:
                    entry.state, entry.line = "not here", f"{reason} The server must be started again."
        return lines

    def close(self) -> None:
        """End all answers and let go of everything; a model that is being loaded is waited for."""
        with self._changed:
            self._is_closed = True
            thread = self._thread
        if thread is not None:
            self._wanted.put(None)
            thread.join()
        for entry in self._entries.values():
            if entry.loaded is not None:
                entry.loaded.close()
                entry.loaded = None

    def __enter__(self) -> ModelLibrary:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── Leases: who answers with a model, from any thread ────────────────────────────────────────────────────────────

    def lease(self, name: str) -> ChatModel:
        """The loaded model, to be given back with `release`. Raises NotLoaded, after which it is being loaded again."""
        entry = self.entry(name)
        with self._changed:
            if entry.state == "loaded" and entry.loaded is not None:
                entry.num_leases += 1
                entry.last_used = time.monotonic()
                return entry.loaded.model
        if entry.state == "not here":
            raise NotLoaded(f"{entry.offer.name} can't answer. {entry.line}")
        self.want(name)
        raise NotLoaded(f"{entry.offer.name} is not in memory now. It is being loaded: ask again in a moment.")

    def release(self, name: str) -> None:
        """An answer has ended."""
        with self._changed:
            entry = self._entries[name]
            entry.num_leases -= 1
            entry.last_used = time.monotonic()
            self._changed.notify_all()

    # ── The library's own thread ─────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while (entry := self._wanted.get()) is not None:
            if self._is_closed:
                return
            entry.is_wanted = False
            try:
                if entry.state != "loaded":
                    self._load(entry)
            except MiniVLMError as error:
                self._set(entry, "here", line=str(error))
            except Exception:
                logger.exception("%s could not be loaded", entry.offer.id)
                self._set(entry, "here", line="It could not be loaded; the server's log says why.")

    def _load(self, entry: Entry) -> None:
        before = self._loader.used_bytes()
        self._set(entry, "loading", line="")
        try:
            self._make_room(entry)
            entry.loaded = self._loader.load(entry.offer, lambda read, total: self._note(entry, read, total))
        except BaseException:
            self._set(entry, "here")
            raise
        after = self._loader.used_bytes()
        self._models[entry.offer.id].renew(entry.loaded.model.info)
        entry.last_used = time.monotonic()
        self._set(entry, "loaded", line=f"Memory in use: {size(before)} before, {size(after)} now.")

    def _make_room(self, entry: Entry) -> None:
        """Unload what must go, longest unused first. Raises NotEnoughMemory, before anything goes, if it can't help."""
        others = [one for one in self._entries.values() if one.loaded is not None]
        need = self._loader.needed(entry.offer, [one.loaded for one in others if one.loaded is not None])
        gives = {id(one): count for one, count in zip(others, need.given_back, strict=True)}
        stays = [one for one in others if one.offer.id in entry.keeping]
        others = [one for one in others if one not in stays]
        beside = f" beside {', '.join(one.offer.name for one in stays)}" if stays else ""
        could = sum(gives[id(one)] for one in others)
        if need.num_bytes > need.free + could:
            given = f", and unloading others gives {size(could)} back" if others else ""
            raise NotEnoughMemory(
                f"{entry.offer.name} does not fit{beside}: it needs about {size(need.num_bytes)} on {need.device}, "
                f"{size(need.free)} are free{given}. Choose a smaller model, or start with --quantization 4bit."
            )
        free, places = need.free, self._max_loaded or len(self._entries)
        if len(stays) >= places:
            raise RequestError(f"{entry.offer.name} can't be loaded{beside}: --max-loaded is {places}.")
        others.sort(key=lambda one: (one.num_leases > 0, one.last_used))
        while others and (need.num_bytes > free or len(others) + len(stays) >= places):
            first = others.pop(0)
            free += gives[id(first)]
            self._unload(first)

    def _unload(self, entry: Entry) -> None:
        """Once its running answers have ended; new ones are refused until then."""
        with self._changed:
            if entry.state == "loaded":
                entry.state, entry.line = "unloading", ""
            self._changed.notify_all()
            self._changed.wait_for(lambda: entry.num_leases == 0 or self._is_closed)
            loaded, entry.loaded = entry.loaded, None
        if loaded is not None:
            loaded.close()
        del loaded
        if entry.state == "unloading":
            self._set(entry, "here")

    # ── Downloads (downloads.py) ─────────────────────────────────────────────────────────────────────────────────────

    def note(
        self, entry: Entry, *, state: EntryState | None = None, progress: float | None = None, line: str | None = None
    ) -> None:
        """Say how far a download is."""
        with self._changed:
            entry.state = state or entry.state
            entry.progress = entry.progress if progress is None else progress
            entry.line = entry.line if line is None else line
            self._changed.notify_all()

    def look_again(self, entry: Entry, line: str) -> None:
        """A download has ended: see what is here now. `line`: what there is to say of it."""
        offer = describe(entry.offer.path, entry.offer.id, entry.offer.overrides)
        with self._changed:
            entry.offer = offer
            entry.state = "not here" if offer.problem else "here"
            entry.line = line or offer.problem
            self._changed.notify_all()

    def _note(self, entry: Entry, read: int, total: int) -> None:
        if self._is_closed:
            raise RequestError("The server is being stopped.")
        share = read / total if total else 1.0
        if share - entry.progress >= 0.01 or share == 1.0:
            with self._changed:
                entry.progress = share
                self._changed.notify_all()

    def _set(self, entry: Entry, state: EntryState, *, line: str | None = None) -> None:
        with self._changed:
            entry.state = state
            entry.line = entry.line if line is None else line
            if state == "loading":
                entry.progress = 0.0
            self._changed.notify_all()
