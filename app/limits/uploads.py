"""The folder of uploads: how full it is, to whom each file belongs, and which files are deleted when."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.limits.policy import KIB, Limits
from app.limits.refusal import Refused

UNOWNED_SECONDS = 600.0  # that a file of nobody stays where room is short
LEAST = 256 * KIB  # that a file counts as, however few bytes it has: its name and folder take room, and time to look at
CUT_OFF_SECONDS = 60.0  # an upload writes more often than that, or is refused as too slow
FULL = "The server has no room for uploads now. Try again later."


class UploadFolder:
    """Counts what is uploaded into a folder, and deletes the files of visits that have ended.

    Gradio names a file by its content: two visits that bring the same picture share it, and it goes with the last.
    """

    def __init__(self, folder: Path, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._limits = limits
        self._clock = clock
        self._unchanged: dict[Path, tuple[tuple[int, int], float]] = {}  # size and time of each file, and since when
        self._others = set(folder.glob("*")) if folder.is_dir() else set()  # that were here before
        self._measured = 0  # bytes at the last look
        self._since = 0  # bytes received since then, whether or not they stayed
        self._running: dict[object, float] = {}  # when each running upload began
        self._owners: dict[Path, set[str]] = {}
        self._leaving: dict[str, set[object]] = {}  # the uploads that a visit's end waits for

    @property
    def used(self) -> int:
        """Bytes in the folder, as far as they are known."""
        return self._measured + self._since

    def check_room(self, size: int) -> None:
        """Raise Refused with 507 where this much more does not fit the quota or the disk."""
        place = self.folder if self.folder.is_dir() else self.folder.parent
        with suppress(OSError):
            if shutil.disk_usage(place).free - size < self._limits.disk_reserve:
                raise Refused(507, FULL, retry_after=60)
        if self.used + size > self._limits.disk_bytes:
            raise Refused(507, FULL, retry_after=60)

    def count(self, size: int) -> None:
        """This many bytes have come. Raises Refused where there is no more room."""
        if self.used + size > self._limits.disk_bytes:
            raise Refused(507, FULL, retry_after=60)
        self._since += size

    @contextmanager
    def running(self) -> Iterator[None]:
        """For the time of an upload: its unfinished files are not cut off."""
        number = object()
        self._running[number] = self._clock()
        try:
            yield
        finally:
            del self._running[number]
            for visit, awaited in list(self._leaving.items()):
                awaited.discard(number)
                if not awaited:
                    del self._leaving[visit]
                    self._delete_of(visit)

    def own(self, visit: str, files: Iterable[object]) -> None:
        """These files have come and are a visit's; what does not lie in the folder is nobody's."""
        for file in files:
            if isinstance(file, str) and (path := Path(file)).is_relative_to(self.folder):
                self._since += LEAST
                self._owners.setdefault(path, set()).add(visit)

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
        for path in [path for path, owners in self._owners.items() if visit in owners]:
            self._owners[path].discard(visit)
            if not self._owners[path]:
                del self._owners[path]
                _delete(path, self.folder)

    def tidy(self) -> None:
        """Measure the folder, delete what was cut off, and make room where little is left. Called now and then."""
        received, now = self._since, self._clock()
        oldest = min(self._running.values(), default=now)
        total, unowned, before = 0, [], self._unchanged
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
                size = max(stat.st_size, LEAST)
                total += size
                if path not in self._owners:
                    unowned.append((since, stat.st_mtime, size, path))
        for since, _, size, path in sorted(unowned):  # copies that gradio made of pictures in answers, and the like
            if total <= 0.8 * self._limits.disk_bytes or since > now - UNOWNED_SECONDS:
                break
            _delete(path, self.folder)
            total -= size
        self._measured, self._since = total, self._since - received


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)


def _delete(path: Path, folder: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
        if path.parent != folder:
            path.parent.rmdir()
