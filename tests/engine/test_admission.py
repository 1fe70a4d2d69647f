"""Who is answered next: places, and a queue in front of them."""

from __future__ import annotations

import pytest

from engine.admission import ASKED_SECONDS, Admission, QueueEntry
from engine.asker import ASKER, Asker
from models.errors import Busy


def test_places_go_to_who_waited_longest() -> None:
    admission = Admission(places=1, max_waiting=3)
    first, *waiting = turns = [admission.join() for _ in range(4)]
    assert [admission.queue_number(turn) for turn in turns] == [0, 1, 2, 3]
    with pytest.raises(Busy, match="3 questions are waiting"):
        admission.join()
    admission.leave(waiting.pop(1))  # who gives up in the queue frees nobody's place
    assert [turn.is_set() for turn in turns] == [True, False, False, False]
    assert [admission.queue_number(turn) for turn in waiting] == [1, 2]
    for turn, following in zip((first, *waiting), waiting, strict=False):
        admission.leave(turn)
        assert (following.is_set(), admission.queue_number(following)) == (True, 0)
    admission.leave(waiting[-1])
    assert (admission.num_active, admission.num_waiting) == (0, 0)


def join(admission: Admission, client: str, visit: str = "") -> QueueEntry:
    token = ASKER.set(Asker(client, visit))
    try:
        return admission.join()
    finally:
        ASKER.reset(token)


def test_no_address_has_all_places() -> None:
    admission = Admission(places=4, max_waiting=9)
    many = [join(admission, "1.1.1.1", f"v{n}") for n in range(5)]
    assert [entry.is_set() for entry in many] == [True, True, True, False, False]
    assert join(admission, "2.2.2.2").is_set()
    alone = [join(Admission(places=2, max_waiting=9), "1.1.1.1") for _ in range(2)]
    assert all(entry.is_set() for entry in alone)  # where there are few, nothing is kept back


def test_no_browser_has_all_places_of_its_address() -> None:
    admission = Admission(places=4, max_waiting=9)
    many = [join(admission, "1.1.1.1", "a") for _ in range(5)]
    assert [entry.is_set() for entry in many] == [True, True, False, False, False]
    assert join(admission, "1.1.1.1", "b").is_set()
    assert not join(admission, "1.1.1.1", "c").is_set()  # that was the last of this address
    assert join(admission, "2.2.2.2").is_set()


def test_where_steps_take_longer_with_each_request_an_address_has_half_while_others_ask() -> None:
    """Seven long answers of one address made somebody else's take two to three times as long."""
    now = [0.0]
    admission = Admission(places=8, max_waiting=9, share_evenly=True, clock=lambda: now[0])
    alone = [join(admission, "1.1.1.1", f"v{n}") for n in range(8)]
    assert [entry.is_set() for entry in alone] == [True] * 7 + [False]
    other = join(admission, "2.2.2.2")
    for entry in alone:
        admission.leave(entry)
    admission.leave(other)
    beside = [join(admission, "1.1.1.1", f"v{n}") for n in range(7)]
    assert [entry.is_set() for entry in beside] == [True] * 4 + [False] * 3
    now[0] += ASKED_SECONDS + 1
    admission.leave(beside[0])
    assert [entry.is_set() for entry in beside] == [True] * 7


def test_who_waits_is_served_by_turns() -> None:
    admission = Admission(places=1, max_waiting=9, clock=lambda: 0.0)
    running = join(admission, "1.1.1.1", "a")
    waiting = {
        "a1": join(admission, "1.1.1.1", "a"),
        "a2": join(admission, "1.1.1.1", "a"),
        "b": join(admission, "1.1.1.1", "b"),  # another browser of that address
        "x1": join(admission, "2.2.2.2", "x"),
        "x2": join(admission, "2.2.2.2", "x"),
    }
    assert sorted(waiting, key=lambda name: admission.queue_number(waiting[name])) == ["x1", "b", "x2", "a1", "a2"]
    order = []
    while waiting:
        admission.leave(running)
        name = next(name for name, entry in waiting.items() if entry.is_set())
        order.append(name)
        running = waiting.pop(name)
    assert order == ["x1", "b", "x2", "a1", "a2"]


def test_who_had_short_answers_goes_before_who_had_long_ones() -> None:
    """Of twenty browsers of one address, the one with short questions waited for a turn of each other."""
    now = [0.0]
    admission = Admission(places=1, max_waiting=9, clock=lambda: now[0])
    for visit, seconds in (("long", 9.0), ("longer", 20.0), ("short", 0.5)):
        running = join(admission, "1.1.1.1", visit)
        now[0] += seconds
        admission.leave(running)
    running = join(admission, "1.1.1.1", "longer")
    waiting = {visit: join(admission, "1.1.1.1", visit) for visit in ("longer", "long", "short")}
    assert sorted(waiting, key=lambda visit: admission.queue_number(waiting[visit])) == ["short", "long", "longer"]
    other = join(admission, "2.2.2.2", "other")
    assert admission.queue_number(other) == 1


def test_in_a_full_queue_who_has_most_makes_room() -> None:
    admission = Admission(places=1, max_waiting=3)
    running, *many = [join(admission, "1.1.1.1") for _ in range(4)]
    other = join(admission, "2.2.2.2")
    assert admission.queue_number(other) == 1
    with pytest.raises(Busy, match="3 questions are waiting"):
        admission.queue_number(many[-1])
    admission.leave(many.pop())  # as its reader does then
    with pytest.raises(Busy):
        join(admission, "1.1.1.1")
    for entry in (running, other, *many):
        admission.leave(entry)
    assert (admission.num_active, admission.num_waiting) == (0, 0)
