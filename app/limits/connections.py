"""Connections: how many each client has open, for how long, and what its bytes take before they are a request.

A connection that sends nothing never reaches the program, so this is where uvicorn accepts it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from app.limits.addresses import SCOPE_KEY, Network, client_of, is_in
from app.limits.budgets import CONNECTING, PlaceInLine, ProcessorShare
from app.limits.policy import KIB, Limits, allowed_connections
from engine.asker import Asker

LEAST, MOST = 256, 64 * KIB  # bytes that are looked at at once: as many as take about LONG
LONG = 0.002  # seconds: a body in chunks of one byte takes that for some five hundred bytes, an upload for a megabyte
VISITED_SECONDS = 60.0  # that an address counts as one with visitors
LOOKED_AT = 64  # connections, to find one that makes room: under a flood this is done for each that comes
FEW = 8  # of one client, as many as a browser has


class OpenConnections:
    """All open connections by client. One too many makes an idle one of the same client close, or is closed itself.

    Where all together are too many, whoever has most of them loses one, so that neither connections which ask for
    nothing nor such as never end keep anybody out, however many addresses they come from.
    """

    def __init__(self, limits: Limits, trusted: Sequence[Network]) -> None:
        self.limits = limits
        self.allowed = allowed_connections(limits)
        self._trusted = trusted  # proxies, whose connections are many clients'
        self._by_client: dict[str, dict[LimitedProtocol, None]] = {}  # in the order of their beginning
        self._all: dict[LimitedProtocol, None] = {}  # in the same order, but for those that were found busy
        self.share = ProcessorShare(limits.processor_share, limits.processor_seconds)
        self._visited: dict[str, float] = {}  # when somebody with a cookie last came from there
        self.refused = 0

    @property
    def total(self) -> int:
        """How many are open."""
        return len(self._all)

    def reading_took(self, connection: LimitedProtocol, seconds: float) -> None:
        """Count the processor's time that went into a client's bytes."""
        asker = connection.asker
        connection.spent += seconds
        if connection.crowd:
            self._visited[connection.limited_client] = time.monotonic()
        if not connection.is_proxy:
            self.share.took(asker, seconds)

    def reading_waits(self, connection: LimitedProtocol) -> bool:
        """Whether no more of its client's bytes may be looked at now.

        The first may at an address with visitors: they say whose it is, before it has to make room for another.
        """
        is_first = connection.spent == 0.0 and self._has_visitors(connection.limited_client)
        return not (connection.is_proxy or is_first) and self.share.must_wait(connection.asker)

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
        own = self._by_client.get(client, {})
        return self._one_of_own(client, own) if len(own) >= self._most_of_client else self._one_of_all(own)

    def _one_of_own(self, client: str, own: dict[LimitedProtocol, None]) -> LimitedProtocol | None:
        """Where a client has its number: an idle one of whoever of it has most; or one whose request is not answered
        yet, but only for an address with visitors, as to make a connection costs more than to refuse it."""
        looked_at = _oldest(own)
        if not self._has_visitors(client):
            return next((one for one in looked_at if not one.is_busy), None)
        all_own = ((one, one.crowd) for one in list(own) if not one.is_answered)
        crowds = [(one, one.crowd) for one in looked_at if not one.is_answered] or list(all_own)
        num = Counter(crowd for _, crowd in crowds)
        found = max(crowds, key=lambda one: (2 * num[one[1]] > len(crowds), one[0].uselessness), default=None)
        return found[0] if found is not None else None

    def _one_of_all(self, own: dict[LimitedProtocol, None]) -> LimitedProtocol | None:
        """Of those that began first one of the client that has most: an idle one, if that client has not fewer than
        this one, which would always come back for more; or one in use, if it has far more."""
        looked_at = _oldest(self._all)
        idle = [one for one in looked_at if not one.is_busy and (len(own) < FEW or self._beside(one) >= len(own))]
        if idle:
            return max(idle, key=self._beside)
        busy = (one for one in looked_at if one.is_busy)
        most = max(busy, key=lambda one: (self._beside(one), one.is_unread), default=None)
        enough = max(FEW, 2 * (len(own) + 1))
        return most if most is not None and self._beside(most) > enough and not most.is_proxy else None

    def _beside(self, connection: LimitedProtocol) -> int:
        """How many its client has."""
        return len(self._by_client[connection.limited_client])

    def _has_visitors(self, client: str) -> bool:
        return time.monotonic() - self._visited.get(client, -math.inf) < VISITED_SECONDS

    def remove(self, connection: LimitedProtocol) -> None:
        """Count a connection that has ended; twice is once."""
        own = self._by_client.get(connection.limited_client, {})
        if connection in own:
            del own[connection], self._all[connection]
            if not own:
                self._by_client.pop(connection.limited_client, None)
                self._visited.pop(connection.limited_client, None)


def _oldest(connections: dict[LimitedProtocol, None]) -> list[LimitedProtocol]:
    """Some that began first. Those in use are looked at again once all others were."""
    looked_at = list(islice(connections, LOOKED_AT))
    for connection in looked_at:
        if connection.is_busy:
            connections[connection] = connections.pop(connection)
    return looked_at


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP on one connection, counted, and closed when it asks for nothing."""

    open_connections: OpenConnections  # set on a subclass, one for each server

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.limited_client = ""
        self.spent = 0.0  # seconds of the processor, on its bytes
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

    @property
    def is_answered(self) -> bool:
        """Whether a request that has come is being answered; not where one is refused that goes on coming."""
        return self.is_busy and self.cycle.response_started and not self.cycle.more_body

    @property
    def asker(self) -> Asker:
        """Whom its bytes count for: the browser whose request it carries, once that is known."""
        told: Any = self.scope.get(SCOPE_KEY) if self.scope else None
        return told if isinstance(told, Asker) else Asker(self.limited_client, CONNECTING if self.spent < LONG else "")

    @property
    def crowd(self) -> str:
        """The visit that it belongs to; empty for all of its address of which that is not known."""
        told = self.scope.get(SCOPE_KEY) if self.scope else None
        return told.visit if isinstance(told, Asker) else ""

    @property
    def uselessness(self) -> int:
        """How well it can be done without: best after a request, else before the answer to one has begun, and less
        well before there is any, as that may be on its way."""
        return (1 if self.is_busy else 2) if self.scope else 0

    @property
    def is_unread(self) -> bool:
        """Whether its client has not read what was written."""
        return self._unread_since is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        # Whoever has gone before it was accepted has no address any more, and nobody to count for.
        if self.client is None or not self.open_connections.add(self, self.client[0]):
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
        self._reading = self.open_connections.share.line_up(self.asker, self._read_piece)

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


def protocol_for(open_connections: OpenConnections) -> type[LimitedProtocol]:
    """The protocol class of one server."""
    return type("CountedProtocol", (LimitedProtocol,), {"open_connections": open_connections})
