"""Nobody's many stand before somebody's one."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from app.chat.decoding.fair_places import LITTLE, DecoderTurn, Turns
from engine.asker import ASKER, Asker
from tests.waiting import eventually


def begin(turns: Turns, asker: Asker, took: list[str], name: str, go_on: threading.Event) -> threading.Thread:
    """Somebody who waits for a turn, says so in `took`, and keeps the place until `go_on`."""

    def run() -> None:
        ASKER.set(asker)
        with turns.turn():
            took.append(name)
            assert go_on.wait(20)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()
    return thread


def order_of(turns: Turns, askers: list[tuple[str, Asker]], first: Callable[[list[str]], bool]) -> list[str]:
    """The order in which they get their turns, if they come in this order and all wait for those of `first`."""
    took: list[str] = []
    go_on = threading.Event()
    threads = []
    for index, (name, asker) in enumerate(askers):
        threads.append(begin(turns, asker, took, name, go_on))
        assert eventually(lambda index=index: len(turns._waiting) + len(took) == index + 1)  # type: ignore[misc]
    assert eventually(lambda: first(took))
    go_on.set()
    for thread in threads:
        thread.join(20)
    return took


def test_one_address_never_has_all_places() -> None:
    attacker, other = Asker("1.1.1.1", "a"), Asker("2.2.2.2", "b")
    many = [(f"a{n}", attacker) for n in range(5)]
    took = order_of(Turns(2), [*many, ("b", other)], lambda took: took == ["a0", "b"])
    assert took == ["a0", "b", "a1", "a2", "a3", "a4"]


def test_visits_of_one_address_take_turns() -> None:
    many = [(f"a{n}", Asker("1.1.1.1", "a")) for n in range(4)]
    took = order_of(Turns(2), [*many, ("b", Asker("1.1.1.1", "b"))], lambda took: took == ["a0"])
    assert took == ["a0", "b", "a1", "a2", "a3"]


def test_addresses_take_turns_before_their_visits_do() -> None:
    visits = [(f"v{n}", Asker("1.1.1.1", f"v{n}")) for n in range(4)]
    took = order_of(Turns(1), [*visits, ("other", Asker("2.2.2.2", "x"))], lambda took: took == ["v0"])
    assert took == ["v0", "other", "v1", "v2", "v3"]
    assert Turns(1)._rounds.total == 0


A, B, C, D = (Asker(client, client) for client in "abcd")


class Places:
    """Turns that are taken and ended by hand."""

    def __init__(self, size: int) -> None:
        self.turns = Turns(size)

    def waits(self, asker: Asker) -> DecoderTurn:
        """One more who waits, and has the place as soon as it may."""
        turn = DecoderTurn(self.turns, asker)
        with self.turns._lock:
            self.turns._waiting.append(turn)
            self.turns._give()
        return turn

    def uses(self, asker: Asker, seconds: float) -> None:
        """A turn of an address from its beginning to its end."""
        before = ASKER.set(asker)
        with self.turns.turn() as turn:
            turn.is_wanted(seconds)
        ASKER.reset(before)


def test_who_used_much_leaves_a_place_to_who_used_little() -> None:
    """Two addresses with many slow pictures had both decoders, and a third one's waited for their end."""
    places = Places(2)
    for asker in (A, B):
        places.uses(asker, 20.0)
    begun = [places.waits(asker).is_set() for asker in (A, B, C)]
    assert begun == [True, False, True]


def test_what_somebody_new_began_is_given_up_for_somebody_else_once_it_takes_much() -> None:
    places = Places(2)
    first, second, third = places.waits(A), places.waits(B), places.waits(C)
    assert not third.is_set()
    assert not first.is_wanted(LITTLE / 2)
    assert first.is_wanted(LITTLE)
    assert not second.is_wanted(LITTLE * 0.9)
    assert not second.is_wanted(LITTLE)  # one is enough
    assert first.is_wanted(LITTLE * 1.1)


def test_nothing_is_given_up_where_nobody_new_waits() -> None:
    places = Places(2)
    places.uses(C, 2 * LITTLE)
    first, second = places.waits(A), places.waits(B)
    assert not first.is_wanted(LITTLE)
    waiting = places.waits(C), places.waits(A)
    assert not any(one.is_set() for one in waiting)
    assert not second.is_wanted(2 * LITTLE)  # those that wait have used much, or have a place


def test_what_was_begun_in_the_place_of_those_who_use_much_may_end() -> None:
    places = Places(2)
    places.uses(A, 2 * LITTLE)
    slow, other = places.waits(A), places.waits(B)
    assert not places.waits(C).is_set()
    assert not slow.is_wanted(20.0)
    assert other.is_wanted(LITTLE)


def test_a_browser_that_used_little_comes_next_at_an_address_that_used_much() -> None:
    places, small = Places(2), A._replace(visit="small")
    places.uses(A, 20.0)
    slow, *more = (places.waits(A) for _ in range(4))
    waiting = places.waits(small)
    assert not waiting.is_set()
    with places.turns._lock:
        places.turns._held.remove(slow)
        places.turns._rounds.end(A, 20.0)
        places.turns._give()
    assert [one.is_set() for one in (waiting, *more)] == [True, False, False, False]
