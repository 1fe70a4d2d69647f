"""Sessions belong to visits; each visit and each client makes room of its own."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from app.limits.policy import Limits
from app.limits.refusal import Refused
from app.limits.visits import Session, Visits


@dataclass
class Kept:
    """What a server keeps, written down."""

    busy: dict[str, int] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)

    def is_answering(self, session: str) -> bool:
        return self.num_unanswered(session) > 0

    def num_unanswered(self, session: str) -> int:
        return self.busy.get(session, 0)

    def forget(self, session: str) -> None:
        self.forgotten.append(session)


@pytest.fixture
def kept() -> Kept:
    return Kept()


def visits_with(kept: Kept, **limits: float) -> Visits:
    return Visits(Limits(**limits), kept)  # type: ignore[arg-type]


def test_a_cookie_is_ours_or_nothing(kept: Kept) -> None:
    visits = visits_with(kept)
    cookie = visits.new_visit()
    assert visits.visit_of(cookie) == cookie.split(".")[0]
    for wrong in (None, "", ".", cookie[:-1], cookie + "0", "a" + cookie, "ü.ü"):
        assert visits.visit_of(wrong) is None
    assert visits_with(kept).visit_of(cookie) is None  # another start of the server


@pytest.mark.parametrize("name", [None, 5, "", "a b", "x" * 65, "../x", ["a"]])
def test_a_session_has_a_plain_name(kept: Kept, name: object) -> None:
    with pytest.raises(Refused):
        visits_with(kept).use(name, "visit", "client")


def test_a_session_is_its_visits(kept: Kept) -> None:
    visits = visits_with(kept)
    visits.use("a", "mine", "client")
    with pytest.raises(Refused) as refused:
        visits.use("a", "other", "client")
    assert refused.value.status == 403


def test_ten_thousand_sessions_push_out_nobody_elses(kept: Kept) -> None:
    visits = visits_with(kept, sessions=100, sessions_per_client=20, sessions_per_visit=10)
    visits.use("victim", "good", "1.1.1.1")
    for number in range(10_005):
        visits.use(f"evil-{number}", f"evil-{number % 7}", "6.6.6.6")
    assert "victim" in visits.sessions
    assert "victim" not in kept.forgotten
    assert len(visits.sessions) == 21


def test_open_and_answering_sessions_stay(kept: Kept) -> None:
    visits = visits_with(kept, sessions_per_visit=2)
    visits.use("open", "visit", "client").streams = 1
    visits.use("asked", "visit", "client")
    kept.busy["asked"] = 1
    with pytest.raises(Refused) as refused:
        visits.use("third", "visit", "client")
    assert refused.value.status == 429
    kept.busy.clear()
    visits.use("third", "visit", "client")
    assert kept.forgotten == ["asked"]


def test_all_together_have_a_number(kept: Kept) -> None:
    visits = visits_with(kept, sessions=3)
    for number in range(3):
        visits.use(str(number), str(number), str(number)).streams = 1
    with pytest.raises(Refused) as refused:
        visits.use("x", "x", "x")
    assert refused.value.status == 503


def test_a_session_goes_a_while_after_its_page(kept: Kept) -> None:
    now = [0.0]
    visits = Visits(Limits(session_seconds=100), kept, clock=lambda: now[0])
    page = visits.use("page", "visit", "client")
    page.streams = 1
    visits.use("gone", "visit", "client")
    now[0] = 101
    visits.forget_old()
    assert kept.forgotten == ["gone"]
    page.streams = 0
    now[0] = 150
    visits.forget_old()
    assert "page" in visits.sessions
    now[0] = 202
    visits.forget_old()
    assert not visits.sessions


def ask(visits: Visits, *sessions: Session) -> bool:
    """Whether the last of these may ask while the others do."""
    with ExitStack() as stack:
        for session in sessions[:-1]:
            stack.enter_context(visits.asking(session))
        with suppress(Refused), visits.asking(sessions[-1]):
            return True
    return False


def test_who_has_most_pages_of_an_address_makes_room_first(kept: Kept) -> None:
    visits = visits_with(kept, sessions_per_client=4, sessions_per_visit=4)
    visits.use("quiet", "neighbour", "client")
    for number in range(4):
        visits.use(f"many-{number}", "greedy", "client")
    assert kept.forgotten == ["many-0"]


def test_who_has_all_pages_of_an_address_keeps_out_no_other_of_it(kept: Kept) -> None:
    visits = visits_with(kept, sessions_per_client=4, sessions_per_visit=4)
    for number in range(4):
        visits.use(f"many-{number}", "greedy", "client").streams = 1
    for number in range(2):
        visits.use(f"few-{number}", "neighbour", "client").streams = 1
    with pytest.raises(Refused, match="Too many pages are open from this address"):
        visits.use("few-2", "neighbour", "client")
    assert kept.forgotten == []


def test_who_asks_all_that_an_address_may_keeps_out_no_other_of_it(kept: Kept) -> None:
    visits = visits_with(kept, waiting_per_visit=4, waiting_per_client=4)
    greedy, other = visits.use("a", "greedy", "client"), visits.use("b", "neighbour", "client")
    kept.busy = {"a": 4}
    assert not ask(visits, greedy)
    assert ask(visits, other, other)
    assert not ask(visits, other, other, other)  # a half of them


def test_waiting_questions_are_counted_by_visit_and_client(kept: Kept) -> None:
    visits = visits_with(kept, waiting_per_visit=2, waiting_per_client=2)
    first, second = visits.use("a", "one", "client"), visits.use("b", "two", "client")
    kept.busy = {"a": 2}
    assert not ask(visits, first)
    assert ask(visits, second)
    kept.busy = {"a": 2, "b": 1}
    assert not ask(visits, second)


def test_questions_that_are_sent_at_the_same_time_are_counted(kept: Kept) -> None:
    """Two hundred of them found 95 waiting each, and filled the queue of everybody."""
    visits = visits_with(kept, waiting_per_visit=2, waiting_per_client=2)
    first, second = visits.use("a", "one", "client"), visits.use("b", "two", "client")
    assert not ask(visits, first, first, first)
    assert ask(visits, first, first, second)
    assert not ask(visits, first, first, second, second)
    assert ask(visits, first)  # nothing of that stays


def test_two_addresses_that_ask_much_leave_room_for_a_third(kept: Kept) -> None:
    visits = visits_with(kept, waiting=10, waiting_per_client=8)
    sessions = [visits.use(f"{number}", f"{number}", f"{number}") for number in range(3)]
    kept.busy = {"0": 7, "1": 3}
    assert not ask(visits, sessions[0])  # more than a half of the places
    assert ask(visits, sessions[1])
    assert ask(visits, sessions[2])
    kept.busy = {"0": 7, "1": 3, "2": 3}
    assert ask(visits, sessions[2])
    assert not ask(visits, sessions[2], sessions[2])
