"""Connections: how many each client has open, for how long, and what its bytes take before they are a request.

A connection that sends nothing never reaches the program, so this is where uvicorn accepts it.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.limits.addresses import Network, client_of, is_in
from app.limits.budgets import PlaceInLine, ProcessorShare
from app.limits.policy import KIB, Limits

LEAST, MOST = 256, 64 * KIB  # bytes that are looked at at once: as many as take about LONG
LONG = 0.002  # seconds: a body in chunks of one byte takes that for some five hundred bytes, an upload for a megabyte
FILES_KEPT = 256  # of those the process may have open: weights, pictures, logs
ACCEPTED_AT_ONCE = 8  # connections, before the loop looks at what has come on the others
BACKLOG = 1024  # that wait to be accepted: who finds no room there tries again a second later
LOOKED_AT = 64  # connections, to find one that makes room: under a flood this is done for each that comes


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


class OpenConnections:
    """All open connections by client. One too many makes an idle one of the same client close, or is closed itself.

    Where all together are too many, whoever has most of them loses an idle one, so that connections which ask for
    nothing keep nobody out, however many addresses they come from.
    """

    def __init__(self, limits: Limits, trusted: Sequence[Network]) -> None:
        self.limits = limits
        self.allowed = allowed_connections(limits)
        self._trusted = trusted  # proxies, whose connections are many clients'
        self._by_client: dict[str, dict[LimitedProtocol, None]] = {}  # in the order of their beginning
        self._all: dict[LimitedProtocol, None] = {}  # in the same order, but for those that were found busy
        self.share = ProcessorShare(limits.processor_share, limits.processor_seconds)
        self.refused = 0

    @property
    def total(self) -> int:
        """How many are open."""
        return len(self._all)

    def reading_took(self, connection: LimitedProtocol, seconds: float) -> None:
        """Count the processor's time that went into a client's bytes."""
        if not connection.is_proxy:
            self.share.took(connection.limited_client, seconds)

    def reading_waits(self, connection: LimitedProtocol) -> bool:
        """Whether no more of its client's bytes may be looked at now."""
        return not connection.is_proxy and self.share.must_wait(connection.limited_client)

    def may_come(self, address: str) -> bool:
        """Whether one more from this address would stay: `add`, before anything is made for it."""
        client = client_of(address)
        if not self._is_full_for(client, is_in(address, self._trusted)) or self._one_to_spare(client) is not None:
            return True
        self.refused += 1
        return False

    def add(self, connection: LimitedProtocol, address: str) -> bool:
        """Count a new connection; whether it may stay."""
        client = connection.limited_client = client_of(address)
        connection.is_proxy = is_in(address, self._trusted)
        may_stay = True
        if self._is_full_for(client, connection.is_proxy):
            idle = self._one_to_spare(client)
            if idle is None:
                may_stay = False
            else:
                idle.transport.abort()
                self.remove(idle)
        self._by_client.setdefault(client, {})[connection] = self._all[connection] = None
        self.refused += not may_stay
        return may_stay

    def _is_full_for(self, client: str, is_proxy: bool) -> bool:
        most = self.allowed if is_proxy else self._most_of_client
        return len(self._by_client.get(client, ())) >= most or self.total >= self.allowed

    @property
    def _most_of_client(self) -> int:
        return min(self.limits.connections_per_client, self.allowed * 3 // 4)

    def _one_to_spare(self, client: str) -> LimitedProtocol | None:
        """An idle one: of this client where it has its number, else of those that began first one of the client that
        has most."""
        own = self._by_client.get(client, {})
        connections = own if len(own) >= self._most_of_client else self._all
        found: list[LimitedProtocol] = []
        for connection in list(islice(connections, LOOKED_AT)):
            if connection.is_busy:
                connections[connection] = connections.pop(connection)  # looked at again once all others were
            else:
                found.append(connection)
        return max(found, key=lambda one: len(self._by_client[one.limited_client]), default=None)

    def remove(self, connection: LimitedProtocol) -> None:
        """Count a connection that has ended; twice is once."""
        own = self._by_client.get(connection.limited_client, {})
        if connection in own:
            del own[connection], self._all[connection]
            if not own:
                self._by_client.pop(connection.limited_client, None)


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP on one connection, counted, and closed when it asks for nothing."""

    open_connections: OpenConnections  # set on a subclass, one for each server

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.limited_client = ""
        self.is_proxy = False  # whose requests are many clients'
        self._watch: asyncio.TimerHandle | None = None
        self._quiet_since: float | None = None
        self._unread_since: float | None = None  # more was written than its client has read
        self._received = bytearray()  # and not looked at yet
        self._piece = KIB  # how much of it at once
        self._reading: PlaceInLine | None = None  # when more of it will be

    @property
    def is_busy(self) -> bool:
        """Whether a request is being read or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self.open_connections.add(self, address):
            transport.abort()
            return
        self._quiet_since = time.monotonic()
        self._look_again()

    def data_received(self, data: bytes) -> None:
        """Bytes have come: they are looked at a piece at a time, as the client's share of the processor allows."""
        self._received += data
        if self._reading is not None:
            self.transport.pause_reading()
        elif self.open_connections.reading_waits(self):
            self._read_later()
        else:
            self._read_piece()

    def _read_piece(self) -> None:
        self._reading = None
        if not self._received or self.transport.is_closing():
            return
        piece = bytes(self._received[: self._piece])
        del self._received[: self._piece]
        super().data_received(piece)
        if self._received:
            self._read_later()
        elif not self.flow.read_paused:
            self.transport.resume_reading()

    def _read_later(self) -> None:
        self.transport.pause_reading()
        self._reading = self.open_connections.share.line_up(self.limited_client, self._read_piece)

    def handle_events(self) -> None:
        """What of the bytes is a request, or a part of one."""
        begun = time.thread_time()
        super().handle_events()
        took = time.thread_time() - begun
        self.open_connections.reading_took(self, took)
        more = 0.5 if took > LONG else 2 if took < LONG / 4 else 1
        self._piece = min(max(int(self._piece * more), LEAST), MOST)

    def send_400_response(self, msg: str) -> None:
        """What comes is no HTTP: said, unless another answer has begun; the connection ends in any case."""
        if self.is_busy and self.cycle.response_started:
            self.cycle.disconnected = True  # what is still written of it goes nowhere
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: uvicorn would advise to install what this server does not want."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self._reading is not None:
            self._reading.cancel()
            self._received.clear()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self.open_connections.remove(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The system takes no more for the client."""
        super().pause_writing()
        self._unread_since = time.monotonic()

    def resume_writing(self) -> None:
        """The client has read most of it."""
        super().resume_writing()
        self._unread_since = None

    def _look_again(self) -> None:
        """Close the connection if it has been without a request for long, or its client has not read for long."""
        idle, unread = self.open_connections.limits.idle_seconds, self.open_connections.limits.unread_seconds
        if self._unread_since is not None and time.monotonic() - self._unread_since >= unread:
            self.transport.abort()
            return
        if self.is_busy:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = time.monotonic()
        elif time.monotonic() - self._quiet_since >= idle:
            self.transport.abort()
            return
        self._watch = self.loop.call_later(idle / 4, self._look_again)


class Listener:
    """Takes over from asyncio to accept connections: few at once, so that others are served between them, and without
    making anything for those that may not stay."""

    def __init__(self, opened: OpenConnections, server: uvicorn.Server, listening: asyncio.Server) -> None:
        self._opened, self._server, self._listening = opened, server, listening
        self._loop = listening.get_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    def take_over(self) -> None:
        """From the next moment of the loop on, whose thread may be another."""
        if isinstance(self._loop, asyncio.SelectorEventLoop):
            self._loop.call_soon_threadsafe(self._listen)

    def _listen(self) -> None:
        for one in self._listening.sockets:  # none once it is closed
            with one.dup() as same:
                same.listen(BACKLOG)
            self._loop.add_reader(one.fileno(), partial(self._accept, one))  # in place of asyncio's own

    def _accept(self, listening: socket.socket) -> None:
        same = socket.socket(listening.family, listening.type, listening.proto, listening.fileno())
        try:
            for _ in range(ACCEPTED_AT_ONCE):
                connection, address = same.accept()
                if not self._opened.may_come(address[0]):
                    connection.close()
                    continue
                connection.setblocking(False)
                made = self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._server.config.ssl)
                task = self._loop.create_task(made)
                self._tasks.add(task)
                task.add_done_callback(self._made)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            pass
        except OSError as error:  # no more files
            logging.getLogger("asyncio").error("connections can't be accepted: %s", error)
            self._loop.remove_reader(listening.fileno())
            self._loop.call_later(1, self._listen)
        finally:
            same.detach()  # it is asyncio's, which closes it

    def _protocol(self) -> asyncio.Protocol:
        config, server = self._server.config, self._server
        make: Any = config.http_protocol_class
        made: asyncio.Protocol = make(config=config, server_state=server.server_state, app_state=server.lifespan.state)
        return made

    def _made(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # of one that has gone before it was there, as after a failed handshake


def protocol_for(open_connections: OpenConnections) -> type[LimitedProtocol]:
    """The protocol class of one server."""
    return type("CountedProtocol", (LimitedProtocol,), {"open_connections": open_connections})
