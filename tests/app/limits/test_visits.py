"""Sessions belong to visits; each visit and each client makes room of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from app.limits.policy import Limits
from app.limits.refusal import Refused
from app.limits.visits import Visits


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


def test_waiting_questions_are_counted_by_visit_and_client(kept: Kept) -> None:
    visits = visits_with(kept, waiting_per_visit=2, waiting_per_client=3)
    first, second = visits.use("a", "one", "client"), visits.use("b", "two", "client")
    kept.busy = {"a": 2}
    with pytest.raises(Refused):
        visits.check_waiting(first)
    visits.check_waiting(second)
    kept.busy = {"a": 2, "b": 1}
    with pytest.raises(Refused):
        visits.check_waiting(second)
