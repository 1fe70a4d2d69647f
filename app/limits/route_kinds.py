"""Every address that the server answers to, and of which kind a request to it is. What is not listed is closed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from app.limits.refusal import Refused

LONGEST_NAME, LONGEST_PATH = 255, 2048  # bytes of a path; a file can have no longer name
API_PREFIXES = ("/v1", "/health", "/metrics")  # what app/api answers


class Kind(Enum):
    """What a request is, which decides what it is checked for and counted as."""

    PAGE = auto()  # the page itself, which begins a visit
    STATIC = auto()  # scripts, styles, icons: the same for everybody
    LOGIN = auto()
    ACCOUNT = auto()  # whether one is logged in, and logging out
    INFO = auto()  # what the page consists of, and what programs may call
    FILE = auto()  # uploads and pictures of answers
    UPLOAD = auto()
    PROGRESS = auto()  # of an upload
    RUN = auto()  # a quick listener, which does not wait in the queue
    JOIN = auto()  # a question of the page, or of gradio_client
    CALL = auto()  # the same of a program that speaks plain HTTP
    CALL_RESULT = auto()
    DATA = auto()  # the stream that carries answers
    HEARTBEAT = auto()  # the stream that says that the page is open
    CANCEL = auto()
    API = auto()  # API_PREFIXES, which ask for keys themselves


OPEN = frozenset({Kind.PAGE, Kind.STATIC, Kind.LOGIN, Kind.ACCOUNT, Kind.API})  # without a login
LINKED = frozenset(
    {Kind.PAGE, Kind.STATIC, Kind.API}
)  # what pages of other sites may ask for; of the API it says which
CALLS = frozenset(Kind) - OPEN - {Kind.INFO, Kind.FILE}  # what a page does, in contrast to what it consists of
STREAMS = frozenset({Kind.PROGRESS, Kind.CALL_RESULT, Kind.DATA, Kind.HEARTBEAT})
STREAMED = STREAMS | {Kind.API}  # of which some begin tasks of their own
FILES = frozenset({Kind.STATIC, Kind.FILE})  # of any length
KEPT_KINDS = frozenset({Kind.PAGE, Kind.INFO, Kind.STATIC})  # the same again and again
ANSWERS = frozenset({Kind.DATA, Kind.CALL_RESULT, Kind.API})  # what is waited for when the server ends
WORK = frozenset({Kind.JOIN, Kind.CALL, Kind.UPLOAD, Kind.API, Kind.PAGE})  # what is not begun any more then


@dataclass(frozen=True)
class RouteMatch:
    """A request's kind, and what its path names: a listener, an event or a session."""

    kind: Kind
    name: str = ""


# Method, path after gradio's prefix is `gradio_api/`, kind. A group named `name` is what the path names.
_TABLE: tuple[tuple[str, re.Pattern[str], Kind], ...] = tuple(
    (method, re.compile(path), kind)
    for method, path, kind in (
        ("GET", r"/", Kind.PAGE),
        ("GET", r"/(assets|static|svelte)/.*", Kind.STATIC),
        ("GET", r"(/gradio_api)?/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json", Kind.STATIC),
        ("GET", r"/pwa_icon(/(192|512))?", Kind.STATIC),  # those of the manifest; gradio draws any size, for minutes
        ("GET", r"/gradio_api/(startup-events|app_id)/?", Kind.STATIC),
        ("POST", r"/login/?", Kind.LOGIN),
        ("GET", r"/(?P<name>logout)/?|/gradio_api/(login_check|user)/?", Kind.ACCOUNT),
        ("GET", r"/config/?|/gradio_api/(info|openapi\.json|queue/status)/?", Kind.INFO),
        ("GET", r"/gradio_api/(file=|file/)(?!https?:).*", Kind.FILE),  # gradio would fetch an address
        ("POST", r"/gradio_api/upload", Kind.UPLOAD),
        ("GET", r"/gradio_api/upload_progress", Kind.PROGRESS),
        ("POST", r"/gradio_api/(run|api)/(?P<name>[^/]+)/?", Kind.RUN),
        ("POST", r"/gradio_api/queue/join", Kind.JOIN),
        ("POST", r"/gradio_api/call/(v2/)?(?P<name>[^/]+)/?", Kind.CALL),
        ("GET", r"/gradio_api/call/(v2/)?[^/]+/(?P<name>[^/]+)", Kind.CALL_RESULT),
        ("GET", r"/gradio_api/queue/data", Kind.DATA),
        ("GET", r"/gradio_api/heartbeat/(?P<name>[^/]+)", Kind.HEARTBEAT),
        ("POST", r"/gradio_api/(cancel|reset)/?", Kind.CANCEL),
        ("*", rf"({'|'.join(map(re.escape, API_PREFIXES))})(/.*)?", Kind.API),
    )
)


def route_of(method: str, path: str) -> RouteMatch:
    """The kind of a request. Raises Refused with 404 or 405 for what is not listed."""
    asked = "GET" if method == "HEAD" else method
    known_path = False
    raw = path.encode("utf-8", "replace")
    if len(raw) > LONGEST_PATH or max(map(len, raw.split(b"/"))) > LONGEST_NAME:
        raise Refused(404, "Not found.")
    for allowed, pattern, kind in _TABLE:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        if allowed in (asked, "*"):
            return RouteMatch(kind, match.groupdict().get("name") or "")
        known_path = True
    if known_path:
        raise Refused(405, f"{method if method.isalpha() and len(method) < 10 else 'That'} does nothing here.")
    raise Refused(404, "Not found.")
