"""Asking servers: what a file is (size, sha256) before it is fetched, and what their refusals mean, in one line each.

All requests go through the hub client's session, so that its settings hold here too: `HF_ENDPOINT`, `HF_TOKEN`,
`HF_HUB_OFFLINE`, and the proxies that `HTTPS_PROXY` names. A token is sent to the hub only.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, parse_ratelimit_headers

from models.disk import is_disk_full
from models.errors import DownloadFailed
from models.fetching.hashes import is_sha256
from models.fetching.table import Address, HubFile

_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
WebError = (HTTPError, OSError, EntryNotFoundError)  # what a request can raise; OfflineModeIsEnabled is an OSError


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file on a server: its URL, the headers to ask for it with, and what the server says of it, where it does.

    `expected` is the sha256 that others say it has. What its own server announces and does not send is damaged; what
    is merely not expected may be another upload.
    """

    url: str
    headers: dict[str, str]
    size: int | None
    sha256: str | None
    expected: str | None = None

    @property
    def wanted(self) -> str | None:
        """The sha256 to look for: the server's own, else the expected one."""
        return self.sha256 or self.expected


def look_up(address: Address) -> RemoteFile:
    """Ask a server about a file without fetching it. Raises one of `WebError`, or DownloadFailed."""
    check_proxies()
    if isinstance(address, HubFile):
        url = hub_url(address)
        found = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        sha256 = found.etag if is_sha256(found.etag) else None
        return RemoteFile(url=url, headers=hub_headers(), size=found.size, sha256=sha256)
    headers = {"accept-encoding": "identity"}
    response = get_session().head(
        address.url, headers=headers, follow_redirects=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
    )
    hf_raise_for_status(response)
    length = response.headers.get("content-length", "")
    return RemoteFile(url=address.url, headers=headers, size=int(length) if length.isdecimal() else None, sha256=None)


def check_proxies() -> None:
    """Raises DownloadFailed for a proxy of the environment that no request can go through."""
    try:
        get_session()
    except (ImportError, ValueError) as error:
        named = ", ".join(f"{name}={value}" for name in _PROXIES if (value := _environment(name)))
        what_to_do = "run: pip install socksio" if isinstance(error, ImportError) else "correct it, or unset it"
        reason = str(error).splitlines()[0].partition(",")[0]
        raise DownloadFailed(f"The proxy can't be used ({named}): {reason}; {what_to_do}.") from error


def page_of(address: Address) -> str:
    """The page about a file's repository; of another server the file itself."""
    return str(address).partition("/resolve/")[0]


def hub_url(file: HubFile) -> str:
    """The address of a file on the hub, or on the mirror that `HF_ENDPOINT` names."""
    return hf_hub_url(file.repository, file.file, repo_type=file.repo_type, revision=file.revision)


def hub_headers() -> dict[str, str]:
    """The headers of a request to the hub, with the user's token if there is one."""
    return {**build_hf_headers(), "accept-encoding": "identity"}


def uses_mirror() -> bool:
    """Whether `HF_ENDPOINT` sends requests elsewhere; whoever set it may not reach other servers."""
    return "huggingface.co" not in constants.ENDPOINT


def explain(error: BaseException, *, what: str, page: str = "") -> str:
    """One line for whatever a request or a write raised: what happened to `what`, and what to do next.

    `page` is where a person can accept terms or look whether the file is there.
    """
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, OfflineModeIsEnabled):
        return f"{what} can't be downloaded while HF_HUB_OFFLINE is set; unset it."
    if status in (401, 403) and page and not page.startswith(("https://huggingface.co/", constants.ENDPOINT)):
        return f"{what}: {page} refuses to send it ({status}), or a proxy in between does; try it with a browser."
    if isinstance(error, GatedRepoError) or status == 403:
        whose = "the account of your token has no access yet; " if get_token() else ""
        return f"{what} is gated: {whose}accept its licence at {page}, then run `hf auth login` or set HF_TOKEN."
    if isinstance(error, RevisionNotFoundError):
        return f"{what} has no such revision any more; see {page}."
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        if get_token():
            return f"{what} is not on the hub, or your token (HF_TOKEN, `hf auth login`) may not read it; see {page}."
        return f"{what} is not on the hub, or needs a login: run `hf auth login` or set HF_TOKEN; see {page}."
    if isinstance(error, EntryNotFoundError) or status == 404:
        return f"{what} is not at its address any more; see {page}."
    if status is not None:
        asked = seconds_asked(error)
        when = f"it asks to wait {asked:,.0f} seconds; start again then" if asked else "start again in some minutes"
        why = "says too many requests" if status == 429 else f"has an error ({status})"
        return f"{what}: the server {why}; {when}, what is here is kept."
    return _explain_local(error, what)


def seconds_asked(error: BaseException) -> float:
    """How long a server that refused asks to wait (`Retry-After`, or the hub's `RateLimit`); 0 where it does not."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    after = error.response.headers.get("retry-after", "")
    if after.isdecimal():
        return float(after)
    with contextlib.suppress(ValueError):
        date = parsedate_to_datetime(after)
        return max(0.0, (date - datetime.now(date.tzinfo)).total_seconds())
    limit = parse_ratelimit_headers(error.response.headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0


def _explain_local(error: BaseException, what: str) -> str:
    """The part of `explain` about connections and disks."""
    if isinstance(error, HTTPError):
        kind = type(error).__name__
        proxies = [name for name in _PROXIES if _environment(name)]
        why = f"; is the proxy right that {proxies[0]} names?" if proxies else "; is this machine online?"
        if uses_mirror():
            why += f" HF_ENDPOINT is {constants.ENDPOINT}; is that right?"
        return f"{what}: no connection, or one that breaks off ({kind}){why} Start again to go on."
    number = error.errno if isinstance(error, OSError) else None
    if is_disk_full(error):
        return f"{what}: the disk is full; make room and start again, what is here is kept."
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{what}: no permission to write to {getattr(error, 'filename', None) or 'its folder'}."
    return f"{what}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _environment(name: str) -> str:
    return os.environ.get(name, "") or os.environ.get(name.lower(), "")


def failed(error: BaseException, *, what: str, page: str = "") -> DownloadFailed:
    """`explain` as an exception."""
    return DownloadFailed(explain(error, what=what, page=page))
