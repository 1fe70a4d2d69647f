"""A file from a server, byte by byte, such that nothing is lost: any cut goes on where it stopped.

`FILE.part` holds what has come, `FILE.part.json` which content that is: address, size, sha256, and the ETag of the
server that sends it. A later start asks for the rest with `Range` and `If-Range`, and begins anew only where the
content has changed. The file gets its name when it is whole. The hub's own client starts large files again at zero
after a kill, and takes wrong bytes of the right number; this is why files of many gigabytes come this way.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import WeakFileLock, get_session, hf_raise_for_status

from models.errors import DownloadFailed
from models.fetching.hashes import sha256_of
from models.fetching.web import RemoteFile, seconds_asked
from models.tensors.foreign import is_page

TRIES = 6  # without a single byte in between
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between two tries; a server may ask for up to the longest
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Content:
    """What the bytes of a `.part` are of; the ETag is that of the server at the end of all redirects."""

    url: str
    size: int | None
    sha256: str | None
    etag: str | None = None

    def is_of(self, file: RemoteFile) -> bool:
        """Whether a file is this content, as far as servers say; without a sha256 only at the same address."""
        is_same_place = file.wanted is not None or self.url == file.url
        return is_same_place and (self.size, self.sha256) == (file.size, file.wanted)

    @property
    def strong_etag(self) -> str | None:
        """The ETag, if it promises the same bytes; a weak one does not."""
        return self.etag if self.etag and not self.etag.startswith("W/") else None


def download(file: RemoteFile, target: Path, *, on_bytes: OnBytes = lambda _: None, lock: Path | None = None) -> str:
    """Fetch a file to `target`, or what is missing of it, and return its sha256.

    `on_bytes` is given how many bytes have come or were here already, negative where they are discarded. A second
    process waits for the first (by a lock beside the file, or `lock`) and finds the file. Content that is not the
    sha256 it should have is fetched once more from the start. If it comes so again, it is refused where the sha256 is
    what its own server announces, and nothing of it stays; what is merely not the expected one is kept, and the caller,
    who is given its sha256, says so. Raises one of `WebError` or DownloadFailed when it can't go on; else what has come
    stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock or _beside(target, ".lock")):
        try:
            return _fetched(file, target, on_bytes)
        finally:
            if lock is None:  # while it is held: who waits for it notices, and makes another
                with contextlib.suppress(OSError):
                    _beside(target, ".lock").unlink()


def _fetched(file: RemoteFile, target: Path, on_bytes: OnBytes) -> str:
    """`download` for whoever has the lock."""
    if target.is_file() and file.size in (None, _size(target)):  # from the process that was waited for
        on_bytes(target.stat().st_size)
        return sha256_of(target)
    part = _beside(target, ".part")
    found = _complete(file, part, on_bytes)
    if file.wanted not in (None, found):
        on_bytes(-_size(part))
        _discard(part)
        first, found = found, _complete(file, part, on_bytes)
        if found != file.wanted and (file.sha256 is not None or found != first):
            why = _corrupt(file, part, first, found)
            on_bytes(-_size(part))
            _discard(part)
            raise DownloadFailed(why)
    with part.open("rb+") as whole:
        os.fsync(whole.fileno())
    part.replace(target)
    _beside(part, ".json").unlink(missing_ok=True)
    return found


def _corrupt(file: RemoteFile, part: Path, first: str, found: str) -> str:
    """What is said of bytes that came wrong twice and are not kept."""
    if is_web_page(part):
        return web_page_from(file)
    if found != first:
        return f"{file.url}: other bytes came each time; is the connection or the disk damaged?"
    return (
        f"{file.url}: what came twice has sha256 {found}, but its server announces {file.sha256}: the file is damaged "
        "there or on the way. Nothing of it was kept; start again later, or from another network."
    )


def is_web_page(file: Path) -> bool:
    """Whether a file that has come is HTML, which no released file is."""
    with file.open("rb") as content:
        return is_page(content.read(256))


def web_page_from(file: RemoteFile) -> str:
    """What is said where a web page came instead of a file."""
    return f"{file.url} sends a web page instead; is there a login in between?"


def part_size(target: Path) -> int:
    """How many bytes of a file have come in an earlier start."""
    return _size(_beside(target, ".part"))


def existing_folder(path: Path) -> Path:
    """The nearest folder above a path that exists already, or that the path is."""
    place = path.absolute()
    return next(folder for folder in (place, *place.parents) if folder.is_dir())


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part, ".json").unlink(missing_ok=True)


def _complete(file: RemoteFile, part: Path, on_bytes: OnBytes) -> str:
    """Bring a `.part` to its full size, over as many cuts as it takes, and return its sha256."""
    before = _recorded(part)
    if before is None or not before.is_of(file):
        _discard(part)
    most, failures = _size(part), 0
    on_bytes(most)
    while file.size is None or _size(part) != file.size:
        error: Exception | None = None
        try:
            _append(file, part, on_bytes)
            if file.size is None:
                break  # the end of the answer is all there is to go by
        except HTTPError as raised:
            error = raised
            if not _is_temporary(error):
                raise
        failures = 0 if _size(part) > most else failures + 1
        most = max(most, _size(part))
        if failures >= TRIES:
            raise error or DownloadFailed(
                f"{file.url}: the server sends less than it says, again and again; start later."
            )
        if error is not None:
            if (asked := seconds_asked(error)) > LONGEST_WAIT:
                raise error  # who asks for minutes is not asked before, and nobody sits in front of a bar so long
            time.sleep(asked or min(LONGEST_WAIT, FIRST_WAIT * 2**failures))
    return sha256_of(part)


def _append(file: RemoteFile, part: Path, on_bytes: OnBytes) -> None:
    """One request for what is missing of a `.part`; all of it where the server has other content now."""
    here, before = _size(part), _recorded(part)
    headers = dict(file.headers)
    if here:
        headers["range"] = f"bytes={here}-"
        # Another server's ETag says nothing here; the sha256, which both have, does at the end.
        if before is not None and before.url == file.url and before.strong_etag:
            headers["if-range"] = before.strong_etag
    with get_session().stream(
        "GET", file.url, headers=headers, follow_redirects=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        if response.status_code == 416:  # what is here is longer than what is there
            on_bytes(-here)
            return _discard(part)
        hf_raise_for_status(response)
        start, total = _range_of(response.headers, response.status_code)
        if file.size is not None and total not in (None, file.size):
            raise DownloadFailed(
                f"{file.url}: the server sends {total:,} bytes, after it had said {file.size:,}; start again later."
            )
        if start not in (0, here):
            raise DownloadFailed(f"{file.url}: the server answers with other bytes than it was asked for; start later.")
        record = Content(url=file.url, size=file.size, sha256=file.wanted, etag=response.headers.get("etag"))
        with part.open("ab") as written:
            if start < here:
                on_bytes(start - here)
                written.truncate(start)  # before the note, or a kill in between leaves old bytes under a new ETag
            _note(part, record)
            for block in response.iter_raw():  # as they come: blocks of a fixed size lose their beginning at a cut
                written.write(block)
                on_bytes(len(block))


def _range_of(headers: Mapping[str, str], status: int) -> tuple[int, int | None]:
    """Where an answer's bytes start, and how many the file has in all, as far as the server says."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("content-range", ""))
    if status == 206 and match:
        return int(match[1]), int(match[2]) if match[2].isdecimal() else None
    length = headers.get("content-length", "")
    return 0, int(length) if length.isdecimal() else None


def _is_temporary(error: Exception) -> bool:
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in _TEMPORARY


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _note(part: Path, content: Content) -> None:
    new = _beside(part, ".json.new")
    new.write_text(json.dumps(asdict(content)), encoding="utf-8")
    new.replace(_beside(part, ".json"))


def _recorded(part: Path) -> Content | None:
    """What was noted about a `.part`; None where nothing was, or it can't be read."""
    try:
        return Content(**json.loads(_beside(part, ".json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
