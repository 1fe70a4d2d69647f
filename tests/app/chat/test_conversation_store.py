"""What is kept of conversations, and for how long."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from app.chat.conversation_store import ConversationStore, _Entry
from engine.asker import ASKER, NOBODY, Asker
from tests.waiting import eventually


@dataclass(eq=False)
class Talk:
    holds: dict[str, int] = field(default_factory=dict)
    is_answering: bool = False
    is_forgotten: bool = False

    def sizes(self) -> dict[str, int]:
        return self.holds

    def abandon(self, seconds: float) -> None:
        self.is_answering = False

    def forget(self) -> None:
        self.is_forgotten = True
        self.holds = {}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> ConversationStore[Talk]:
    return ConversationStore(lifetime=100, grace=10, max_bytes=1000, clock=clock)


def test_only_the_right_key_opens_a_conversation(store: ConversationStore[Talk]) -> None:
    mine, other = Talk(), Talk()
    store.keep("mine", mine)
    store.keep("other", other)
    assert store.get("mine") is mine
    assert [store.get(key) for key in ("", "min", "mine ", "nobody's")] == [None] * 4


def test_an_answer_ends_and_a_conversation_goes_a_while_after_its_page(
    store: ConversationStore[Talk], clock: Clock
) -> None:
    talk = Talk(is_answering=True)
    store.keep("key", talk)
    store.leave("key")
    for now, answering, forgotten in ((9, True, False), (10, False, False), (99, False, False), (100, False, True)):
        clock.now = now
        store.tidy()
        assert (talk.is_answering, talk.is_forgotten) == (answering, forgotten)
    assert store.get("key") is None


@pytest.mark.parametrize("back", [lambda store, talk: store.get("key"), lambda store, talk: store.keep("key", talk)])
def test_a_page_that_comes_back_finds_everything(store: ConversationStore[Talk], clock: Clock, back: object) -> None:
    talk = Talk(is_answering=True)
    store.keep("key", talk)
    store.leave("key")
    clock.now = 9
    back(store, talk)  # type: ignore[operator]
    clock.now = 10_000
    assert store.tidy() is None
    assert (talk.is_answering, talk.is_forgotten) == (True, False)


def test_a_conversation_that_was_dropped_is_forgotten_at_once(store: ConversationStore[Talk]) -> None:
    talk = Talk({"a": 10})
    store.keep("key", talk)
    store.drop("key")
    store.drop("key")
    store.leave("key")
    assert (talk.is_forgotten, len(store), store.num_bytes) == (True, 0, 0)


def test_what_conversations_share_is_counted_once(store: ConversationStore[Talk]) -> None:
    store.keep("a", Talk({"picture": 900, "text a": 10}))
    store.keep("b", Talk({"picture": 900, "text b": 10}))
    assert store.num_bytes == 920
    assert len(store) == 2


def test_over_the_budget_left_ones_go_first_then_the_oldest_but_no_running_answer(
    store: ConversationStore[Talk],
) -> None:
    running, old, new, left = (Talk({name: 300}) for name in "abcd")
    running.is_answering = True
    for key, talk in (("running", running), ("old", old), ("new", new)):
        store.keep(key, talk)
    store.max_bytes = 1200
    store.keep("left", left)
    store.leave("left")
    store.max_bytes = 1000
    store.keep("e", Talk({"e": 300}))
    assert [talk.is_forgotten for talk in (running, old, new, left)] == [False, True, False, True]
    assert store.num_bytes == 900


def test_who_holds_most_makes_room_however_many_they_are() -> None:
    """Many addresses that hold less than a quarter each took the oldest conversation of somebody who holds little."""
    store: ConversationStore[Talk] = ConversationStore(max_bytes=1000)

    def keep(key: str, client: str, size: int) -> Talk:
        ASKER.set(Asker(client, "a browser"))
        store.keep(key, talk := Talk({key: size}))
        return talk

    little = keep("little", "127.0.0.2", 50)
    many = [keep(f"{number}", f"10.0.0.{number % 5}", 100) for number in range(10)]
    assert not little.is_forgotten
    assert [talk.is_forgotten for talk in many] == [True] + [False] * 9
    ASKER.set(NOBODY)


def test_many_short_conversations_are_much() -> None:
    store: ConversationStore[Talk] = ConversationStore(max_bytes=16_384 * 10)
    for number in range(16_390):
        store._entries[f"{number}"] = _Entry(Talk(), {f"{number}": 10}, NOBODY)
    store.keep("one more", Talk())
    assert len(store) == 16_384


def test_what_is_used_now_stays_even_if_it_is_too_large_alone(store: ConversationStore[Talk]) -> None:
    talk = Talk({"a": 5000})
    store.keep("key", talk)
    assert store.get("key") is talk


def test_nobody_needs_to_ask_for_the_tidying() -> None:
    others = set(threading.enumerate())  # stores of other tests in this process
    store: ConversationStore[Talk] = ConversationStore(lifetime=0.05, grace=0.01)
    for round_ in range(2):  # the thread ends when there is nothing left to do, and begins again
        talk = Talk(is_answering=True)
        store.keep(f"{round_}", talk)
        store.leave(f"{round_}")
        assert eventually(lambda: len(store) == 0)
        assert talk.is_forgotten
        assert eventually(
            lambda: not any(thread.name == "conversations" for thread in set(threading.enumerate()) - others)
        )
