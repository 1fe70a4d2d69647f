"""How much one client, one visit and all together may use: the numbers, and which of them hold for a way of serving."""

from __future__ import annotations

import resource
from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
FILES_KEPT = 256  # of those the process may have open: weights, pictures, logs


@dataclass(frozen=True)
class Limits:
    """The limits of one server. A client is an address (see addresses.py), a visit is one browser (see visits.py).

    docs/operations.md lists them with what a client is told. These defaults are generous: for a server that only its
    own machine can reach.
    """

    # connections and requests
    connections: int = 2048  # open at once, from all clients; never more than the process may have files open
    connections_per_client: int = 512
    streams_per_client: int = 400  # answers, heartbeats and upload progress that are being sent
    requests_per_second: float = 200.0  # on average, of one client
    requests_at_once: int = (
        600  # what an idle client may send without a pause; a page with all it consists of is some 80
    )
    calls_per_second: float = 20.0  # of one browser: presses, questions, uploads, streams
    calls_at_once: int = 300
    presses_at_once: int = 4  # of one browser; more of them wait
    presses_waiting: int = 64
    presses_per_client: int = 32  # at once; more of them wait
    idle_seconds: float = 20.0  # a connection that has sent no request, or half of one's headers
    unread_seconds: float = 60.0  # a connection whose client does not read what it asked for
    processor_share: float = 0.25  # of one processor, for a client's bytes and requests while others have some, too
    processor_seconds: float = 0.03  # of it at once: somebody else's conversation takes a tenth of a second in all
    # bodies
    json_bytes: int = 4 * MIB  # of a press on the page, and of a call of /chat with its history
    api_bytes: int = 64 * MIB  # of a request to /v1, whose images are part of the JSON; its own limit is 40
    form_bytes: int = 16 * KIB  # of a login
    upload_bytes: int = 512 * MIB  # of one request; each file in it has the page's own limit
    upload_files: int = 100  # of one request
    buffered_bytes: int = 256 * MIB  # of all bodies that are being read or used, without uploads
    body_seconds: float = 15.0  # until a body must keep up with the rate
    body_rate: float = 16 * KIB  # bytes per second, on average from there on
    # state
    sessions: int = 1500  # of all clients; gradio forgets strangers' beyond 2,000
    sessions_per_client: int = 256
    sessions_per_visit: int = 64
    visits_per_minute: float = 600.0  # pages opened by a browser that had none open
    session_seconds: float = 45.0  # that a session lives on after its page is gone; its conversation, for longer
    # work
    waiting: int = 128  # beyond them only who has less than an equal part of them may ask
    waiting_per_client: int = 96  # questions that are asked and not answered yet
    waiting_per_visit: int = 16
    unread_messages: int = 256  # about answers of a session, with which it may ask the next question
    # files
    upload_bytes_per_hour: int = 32 * GIB
    upload_seconds: float = 600.0  # that uploads stay after the last page of their browser is gone
    disk_bytes: int = 16 * GIB  # all uploads together, whole or cut off
    disk_reserve: int = 256 * MIB  # of the disk that uploads leave free
    # passwords
    logins_per_minute: float = 20.0


LOCAL = Limits()
PUBLIC = Limits(
    connections_per_client=96,
    streams_per_client=72,
    requests_per_second=30.0,
    requests_at_once=600,
    calls_per_second=5.0,
    calls_at_once=100,
    idle_seconds=10.0,
    unread_seconds=30.0,
    json_bytes=1 * MIB,
    api_bytes=32 * MIB,
    upload_bytes=128 * MIB,
    upload_files=32,
    buffered_bytes=128 * MIB,
    body_seconds=10.0,
    sessions_per_client=64,
    sessions_per_visit=16,
    visits_per_minute=30.0,
    upload_seconds=300.0,
    waiting_per_client=24,
    waiting_per_visit=4,
    upload_bytes_per_hour=1 * GIB,
    disk_bytes=4 * GIB,
    disk_reserve=1 * GIB,
    logins_per_minute=5.0,
)


def limits_for(*, is_public: bool) -> Limits:
    """PUBLIC where others than this machine's users can connect, LOCAL otherwise."""
    return PUBLIC if is_public else LOCAL


def allowed_connections(limits: Limits) -> int:
    """How many may be open at once: the limit, or what the system lets the process open; that is raised if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + 2 * FILES_KEPT
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft == resource.RLIM_INFINITY:
        return limits.connections
    return max(32, min(limits.connections, soft - FILES_KEPT, soft // 2))
