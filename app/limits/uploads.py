"""The folder of uploads: how full it is, to whom each file belongs, and which files are deleted when."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.limits.policy import Limits
from app.limits.refusal import Refused

UNOWNED_SECONDS = 600.0  # that a file of nobody stays where room is short
CUT_OFF_SECONDS = 60.0  # an upload writes more often than that, or is refused as too slow
FULL = "The server has no room for uploads now. Try again later."
TOO_MUCH = "This address has as many uploads on the server as it may. Close pages that need them no more."
LEAST = 1 / 2**18  # of the quota: a file counts as that much, as a million empty ones fill a disk, too
MOST_OF_CLIENT = 1 / 2  # of it
ALWAYS_ALLOWED = 1 / 256  # to each client: others' uploads keep nobody from bringing a few


@dataclass(eq=False)
class Upload:
    """One that is running: whose it is, since when, and the bytes that have come."""

    client: str
    begun: float
    size: int = 0


class UploadFolder:
    """Counts what is uploaded into a folder, and deletes the files of visits that have ended.

    Gradio names a file by its content: two visits that bring the same picture share it, and it goes with the last.
    """

    def __init__(self, folder: Path, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._limits = limits
        self._clock = clock
        self._least = int(LEAST * limits.disk_bytes)
        self._unchanged: dict[Path, tuple[tuple[int, int], float]] = {}  # size and time of each file, and since when
        self._others = set(folder.glob("*")) if folder.is_dir() else set()  # that were here before
        self._measured = 0  # bytes at the last look
        self._since = 0  # bytes received since then, whether or not they stayed
        self._running: set[Upload] = set()
        self._owners: dict[Path, set[str]] = {}
        self._clients: dict[str, str] = {}  # by visit
        self._held: Counter[str] = Counter()  # bytes of each client's files
        self._leaving: dict[str, set[Upload]] = {}  # the uploads that a visit's end waits for

    @property
    def used(self) -> int:
        """Bytes in the folder, as far as they are known."""
        return self._measured + self._since

    def check_room(self, size: int, client: str) -> None:
        """Raise Refused where this much more is too much of the client, or does not fit the quota or the disk."""
        may_always = self._check_quota(size, client)
        place = self.folder if self.folder.is_dir() else self.folder.parent
        with suppress(OSError):
            reserve = self._limits.disk_reserve // (2 if may_always else 1)
            if shutil.disk_usage(place).free - size < reserve:
                raise Refused(507, FULL, retry_after=60)

    def _check_quota(self, size: int, client: str) -> bool:
        """Whether the client has so little that it may bring this much, however full it is. Raises Refused."""
        quota = self._limits.disk_bytes
        own = self._held[client] + sum(one.size for one in self._running if one.client == client) + size
        if own > MOST_OF_CLIENT * quota:
            raise Refused(429, TOO_MUCH, retry_after=60)
        may_always = own <= ALWAYS_ALLOWED * quota
        if self.used + size > quota and not may_always:
            raise Refused(507, FULL, retry_after=60)
        return may_always

    def count(self, upload: Upload, size: int) -> None:
        """This many more bytes of it have come. Raises Refused where there is no more room."""
        self._check_quota(size, upload.client)
        upload.size += size
        self._since += size

    @contextmanager
    def running(self, client: str) -> Iterator[Upload]:
        """For the time of an upload: its unfinished files are not cut off."""
        upload = Upload(client, self._clock())
        self._running.add(upload)
        try:
            yield upload
        finally:
            self._running.discard(upload)
            for visit, awaited in list(self._leaving.items()):
                awaited.discard(upload)
                if not awaited:
                    del self._leaving[visit]
                    self._delete_of(visit)

    def own(self, visit: str, files: Iterable[object], client: str) -> None:
        """These files are a visit's, and its client's; what does not lie in the folder is nobody's."""
        for file in files:
            if isinstance(file, str) and (path := Path(file)).is_relative_to(self.folder):
                self._owners.setdefault(path, set()).add(visit)
                self._clients[visit] = client
                with suppress(OSError):
                    size = path.stat().st_size
                    self._held[client] += max(size, self._least)
                    self._since += max(0, self._least - size)

    def visits(self) -> set[str]:
        """Who has files here."""
        return {visit for owners in self._owners.values() for visit in owners}

    def forget(self, visit: str) -> None:
        """The visit has ended: delete what is nobody else's.

        Not before the uploads that are running have ended: gradio may have put a file of one of them in the place of
        the very file that goes, and whose it is becomes known with the answer.
        """
        if self._running:
            self._leaving.setdefault(visit, set(self._running))
        else:
            self._delete_of(visit)

    def _delete_of(self, visit: str) -> None:
        self._clients.pop(visit, None)
        for path in [path for path, owners in self._owners.items() if visit in owners]:
            self._owners[path].discard(visit)
            if not self._owners[path]:
                del self._owners[path]
                _delete(path, self.folder)

    def tidy(self) -> None:
        """Measure the folder, delete what was cut off, and make room where little is left. Called now and then."""
        received, now = self._since, self._clock()
        oldest = min((one.begun for one in list(self._running)), default=now)
        total, unowned, before, held = 0, [], self._unchanged, Counter[str]()
        self._unchanged = {}
        for path in _files(self.folder):
            with suppress(OSError):
                stat = path.stat()
                state = (stat.st_size, stat.st_mtime_ns)
                known, since = before.get(path, (None, now))
                since = since if known == state else now  # by our own clock, as the system's may be set back
                is_cut_off = since < min(oldest, now - CUT_OFF_SECONDS)
                if path.parent == self.folder and path not in self._others and is_cut_off:
                    path.unlink()
                    continue
                self._unchanged[path] = state, since
                size = max(stat.st_size, self._least)
                total += size
                owners = list(self._owners.get(path, ()))
                held.update(dict.fromkeys({self._clients.get(visit, "") for visit in owners}, size))
                if not owners:
                    unowned.append((since, stat.st_mtime, size, path))
        for since, _, size, path in sorted(unowned):  # copies that gradio made of pictures in answers, and the like
            if total <= 0.8 * self._limits.disk_bytes or since > now - UNOWNED_SECONDS:
                break
            _delete(path, self.folder)
            total -= size
        self._measured, self._since, self._held = total, self._since - received, held


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)


def _delete(path: Path, folder: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
        if path.parent != folder:
            path.parent.rmdir()
