"""Nobody's many stand before somebody's one."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from app.chat.decoding.fair_places import Turns
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
