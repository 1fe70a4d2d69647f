"""A few places that all clients wait for, given first to those who used them least.

Whoever used much lately has only what somebody else can wait for: all of those have together one place less than there
are, and what one of them began while it had used little is given up once somebody waits who still has. It is begun
again in its turn.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engine.asker import ASKER, Asker, Rounds

LITTLE = 1.0  # seconds of a decoder's processor time: a photo of 12 megapixels takes 0.3, one of 200 two


class DecoderTurn(threading.Event):
    """Somebody's wait for a place, and then the place; the event is set once it has one."""

    def __init__(self, turns: Turns, asker: Asker) -> None:
        super().__init__()
        self._turns = turns
        self.asker = asker
        self.used = 0.0  # seconds so far
        self.may_be_given_up = False

    def is_wanted(self, used: float) -> bool:
        """Whether the place, of which `used` seconds were used, is to be given up for somebody else."""
        return self._turns.gives_up(self, used)


class Turns:
    """`size` places. With more than one, no address has all of them: others need not wait for its many."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._most = max(1, size - 1)  # of one address, and of all together who used much
        self._lock = threading.Lock()
        self._waiting: list[DecoderTurn] = []
        self._held: list[DecoderTurn] = []
        self._rounds = Rounds()

    @contextmanager
    def turn(self) -> Iterator[DecoderTurn]:
        """Wait for a place, and hold it for the time of the block. Who asks is told by ASKER."""
        turn = DecoderTurn(self, ASKER.get())
        with self._lock:
            self._waiting.append(turn)
            self._give()
        try:
            turn.wait()
            yield turn
        finally:
            with self._lock:
                if turn in self._held:
                    self._held.remove(turn)
                    self._rounds.end(turn.asker, turn.used)
                else:
                    self._waiting.remove(turn)
                self._give()

    def gives_up(self, turn: DecoderTurn, used: float) -> bool:
        """See DecoderTurn. It is always one place at a time: the one that has been used most."""
        with self._lock:
            turn.used = used
            if len(self._held) < self._size or not any(map(self._is_kept_from, self._waiting)):
                return False
            long = [one for one in self._held if one.may_be_given_up and one.used >= LITTLE]
            return turn is max(long, key=lambda one: one.used, default=None)

    def _give(self) -> None:
        """Under the lock: give free places to those whose turn it is."""
        while len(self._held) < self._size:
            order = self._rounds.order(self._waiting, lambda turn: turn.asker)
            turn = next((one for one in order if self._may_begin(one)), None)
            if turn is None:
                return
            turn.may_be_given_up = not self._used_much(turn.asker.client)
            self._waiting.remove(turn)
            self._held.append(turn)
            self._rounds.begin(turn.asker)
            turn.set()

    def _may_begin(self, turn: DecoderTurn) -> bool:
        if not self._used_much(turn.asker.client):
            return self._rounds.of_client(turn.asker.client) < self._most
        return sum(self._used_much(one.asker.client) for one in self._held) < self._most

    def _is_kept_from(self, turn: DecoderTurn) -> bool:
        """Whether this one, which waits, used little, and has no place yet."""
        return not self._used_much(turn.asker.client) and not self._rounds.of_client(turn.asker.client)

    def _used_much(self, client: str) -> bool:
        now = sum(one.used for one in self._held if one.asker.client == client)
        return self._rounds.used(client) + now >= LITTLE
