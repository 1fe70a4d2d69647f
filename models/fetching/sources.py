"""A file that several addresses have: the next one is asked where one refuses, breaks off, or sends something else.

The sha256 decides. Only what no address has otherwise is kept with other bytes than expected, for the caller to tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from models.disk import is_disk_full
from models.errors import DownloadFailed, MiniVLMError
from models.fetching.table import Address, ReleasedFile
from models.fetching.transfer import OnBytes, download, is_web_page, web_page_from
from models.fetching.web import RemoteFile, WebError, explain, look_up, page_of


def remote_of(released: ReleasedFile, address: Address) -> RemoteFile:
    """What a server says of a released file. Raises one of `WebError`, and DownloadFailed."""
    remote = look_up(address)
    # A server without hashes may still send damaged bytes, which the table's hash finds.
    return replace(remote, expected=released.sha256)


class Sources:
    """The addresses of one file that have not been asked for it yet, in order; `problems` are those of the others."""

    def __init__(
        self, first: RemoteFile, others: tuple[Address, ...], released: ReleasedFile | None, what: str
    ) -> None:
        self._first, self._others, self._released, self._what = first, others, released, what
        self.problems: list[str] = []

    def fetch(self, target: Path, on_bytes: OnBytes) -> tuple[RemoteFile, str]:
        """Bring the file to `target`: who has sent it, and its sha256. Raises DownloadFailed, with all problems."""
        differing: tuple[RemoteFile, str] | None = None
        aside = target.with_name(f"{target.name}.differs")
        try:
            for remote in self._remotes():
                found = self._try(remote, target, on_bytes)
                if found is None:
                    continue
                if remote.wanted in (None, found):
                    return remote, found
                self.problems.append(f"{remote.url} sends other bytes than it should (sha256 {found}).")
                on_bytes(-target.stat().st_size)
                if differing is None:
                    differing = remote, found
                    target.replace(aside)
                else:
                    target.unlink()
        finally:
            if aside.exists() and not target.exists():
                aside.replace(target)
            aside.unlink(missing_ok=True)
        if differing is None:
            raise DownloadFailed(" ".join(dict.fromkeys(self.problems)))  # one line may be true of two addresses
        on_bytes(target.stat().st_size)
        return differing

    def _remotes(self) -> Iterator[RemoteFile]:
        yield self._first
        for address in self._others:
            assert self._released is not None
            try:
                yield remote_of(self._released, address)
            except WebError as error:
                self.problems.append(explain(error, what=self._what, page=page_of(address)))

    def _try(self, remote: RemoteFile, target: Path, on_bytes: OnBytes) -> str | None:
        """The sha256 of what has come; None where it did not, with its problem noted."""
        page, come = remote.url.partition("/resolve/")[0], 0

        def count(number: int) -> None:
            nonlocal come
            come += number
            on_bytes(number)

        try:
            found = download(remote, target, on_bytes=count)
        except (*WebError, MiniVLMError) as error:
            if is_disk_full(error) or isinstance(error, PermissionError):
                raise  # elsewhere it would be the same
            on_bytes(-come)  # the next one begins with what is here
            is_said = isinstance(error, MiniVLMError)
            self.problems.append(str(error) if is_said else explain(error, what=self._what, page=page))
            return None
        if is_web_page(target):  # whatever its server publishes as its sha256
            on_bytes(-come)
            target.unlink()
            self.problems.append(f"{self._what}: {web_page_from(remote)}")
            return None
        return found
