"""Rates and numbers of a client, and that idle clients cost nothing."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from app.limits.budgets import MOST_OWED, REMEMBERED, AddressRate, Gauge, Metered, ProcessorShare, Rate
from app.limits.fair_queue import Lanes
from app.limits.refusal import Refused
from engine.asker import Asker
from tests.waiting import in_a_loop

ONE, TWO = Asker("one", "x"), Asker("two", "x")
NEIGHBOUR = Asker("one", "y")


def test_a_rate_refills() -> None:
    now = [0.0]
    rate = Rate(2.0, 3, clock=lambda: now[0])
    assert [rate.take("a") for _ in range(4)] == [True, True, True, False]
    assert rate.take("b")
    assert rate.seconds_until("a", 3) == 2
    now[0] = 1.0
    assert [rate.take("a") for _ in range(3)] == [True, True, False]


def test_who_takes_all_of_an_addresss_rate_leaves_the_other_browsers_some() -> None:
    rate = AddressRate(1e-9, 8)
    assert [rate.take(ONE) for _ in range(11)] == [True] * 10 + [False]  # its own two, too
    assert not rate.take(ONE._replace(visit=""))  # who comes without a cookie has no own
    assert [rate.take(NEIGHBOUR) for _ in range(3)] == [True, True, False]
    assert rate.left(TWO) == 8


def test_strangers_are_forgotten() -> None:
    rate = Rate(1.0, 5)
    for number in range(REMEMBERED + 10):
        rate.take(str(number))
    assert len(rate._buckets) == REMEMBERED


def test_a_number_is_held_and_given_back() -> None:
    gauge = Gauge(1)
    with gauge.held(ONE, "too many"):
        with pytest.raises(Refused, match="too many"), gauge.held(ONE, "too many"):
            pass
        with gauge.held(TWO, "too many"):
            assert gauge.total == 2
            assert (gauge.of("one"), gauge.of("three")) == (1, 0)
    assert gauge.total == 0
    assert not gauge._open


def test_who_has_all_that_an_address_may_keeps_out_no_other_of_it() -> None:
    gauge = Gauge(4)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(gauge.held(ONE, "too many"))
        for _ in range(2):
            stack.enter_context(gauge.held(NEIGHBOUR, "too many"))
        for asker in (ONE, NEIGHBOUR):  # both have a half of the number now, or more
            with pytest.raises(Refused), gauge.held(asker, "too many"):
                pass
    assert not gauge._open


def test_the_browsers_of_an_address_take_turns_in_its_lane() -> None:
    """A hundred presses of one browser stood before the first of another."""
    lanes, began, go_on = Lanes(4, 99), list[str](), asyncio.Event()

    async def press(asker: Asker) -> None:
        async with lanes.held(asker.client, "too many", asker):
            began.append(asker.visit)
            await go_on.wait()

    async def all_of_them() -> None:
        tasks = [asyncio.ensure_future(press(asker)) for asker in (*[ONE] * 6, NEIGHBOUR, NEIGHBOUR)]
        for _ in range(9):
            await asyncio.sleep(0)
        assert began == ["x", "x", "x", "y"]
        tasks.pop(5).cancel()  # while it waits
        go_on.set()
        await asyncio.gather(*tasks)

    in_a_loop(all_of_them())
    assert sorted(began) == ["x"] * 5 + ["y"] * 2
    assert len(lanes) == 0


def test_of_many_a_few_run_and_the_others_wait() -> None:
    lanes = Lanes(2, 3)
    running: list[int] = []
    most = 0

    async def one(number: int) -> str:
        nonlocal most
        try:
            async with lanes.held("a", "too many"):
                running.append(number)
                most = max(most, len(running))
                await asyncio.sleep(0)
                running.remove(number)
        except Refused as refused:
            return refused.reason
        return "served"

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one(number) for number in range(7)))

    told = in_a_loop(all_of_them())
    assert told == ["served"] * 5 + ["too many"] * 2
    assert (most, len(lanes)) == (2, 0)


def test_who_takes_much_of_the_processor_waits_while_others_want_some() -> None:
    now = [0.0]
    share = ProcessorShare(0.25, 0.5, clock=lambda: now[0])
    share.took(ONE, 60.0)
    assert share.waits(ONE) == 0  # nobody else is there
    share.took(TWO, 0.4)
    assert share.waits(ONE) == 2 * MOST_OWED  # all that it may owe
    assert share.waits(TWO) == 0
    now[0] = 7.9
    share.took(TWO, 0.0)
    assert 0 < share.waits(ONE) < 0.2
    now[0] = 8.0
    assert share.waits(ONE) == 0
    share.took(ONE, 1.0)
    now[0] = 10.0
    assert share.waits(ONE) == 0  # the other has asked for nothing lately


def test_who_takes_much_waits_for_others_of_its_address_too() -> None:
    now = [0.0]
    share = ProcessorShare(0.25, 0.5, clock=lambda: now[0])
    share.took(ONE, 60.0)
    assert share.waits(ONE) == 0
    share.took(NEIGHBOUR, 0.1)
    assert share.waits(ONE) == 2 * MOST_OWED
    assert share.waits(NEIGHBOUR) == 0
    now[0] = 1.9
    share.took(TWO, 0.1)
    assert share.waits(ONE) > 0
    now[0] = 2.1  # nobody of its address has asked lately, but another address has
    assert share.waits(ONE) > 0
    assert share.waits(NEIGHBOUR) == 0  # for what the other one owes


def test_browsers_that_take_little_have_little_beside_what_their_address_owes() -> None:
    """Twelve of one address had as much as twelve addresses."""
    share = ProcessorShare(0.25, 0.5, clock=lambda: 0.0)
    share.took(TWO, 0.1)
    for _ in range(9):
        share.took(ONE, 0.6)
    crowd = [Asker("one", str(number)) for number in range(9)]
    waits = []
    for asker in crowd:
        waits.append(share.waits(asker))
        share.took(asker, 0.25)
    assert waits == [0.0, 0.0, 0.0, *waits[3:]]
    assert min(waits[3:]) > 0
    assert share.waits(TWO) == 0


def test_all_that_waits_for_one_address_waits_in_one_line() -> None:
    """Two hundred connections that waited were all read when the time had come: fifty milliseconds in one go."""
    now, begun = [0.0], list[str]()
    share = ProcessorShare(0.25, 0.5, clock=lambda: now[0])

    def begin(name: str, seconds: float) -> None:
        begun.append(name)
        share.took(ONE, seconds)

    async def request(name: str) -> None:
        await share.turn(ONE)
        begin(name, 1.0)

    async def a_while() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def attacked() -> None:
        share.took(ONE, 1.0)
        share.took(TWO, 0.1)
        assert share.must_wait(ONE)
        for number in range(3):
            share.line_up(ONE, lambda number=number: begin(f"piece {number}", 1.0))  # type: ignore[misc]
        gone = share.line_up(ONE, lambda: begin("of a connection that has gone", 1.0))
        tasks = [asyncio.ensure_future(request(f"request {number}")) for number in range(3)]
        gone.cancel()
        await a_while()
        tasks[1].cancel()
        await share.turn(TWO)
        assert begun == []
        for number in range(5):  # its debt is paid again and again, each time for one
            now[0] += 20.0
            share.took(TWO, 0.1)
            share._serve_line(ONE)
            await a_while()
            assert len(begun) == number + 1
        assert begun == ["piece 0", "piece 1", "piece 2", "request 0", "request 2"]
        now[0] += 20.0
        await a_while()

    in_a_loop(attacked())


def test_each_step_of_a_request_is_counted_and_whatever_ends_it_passes() -> None:
    steps: list[float] = []
    seen: list[str] = []

    async def request(ends_with: BaseException | None) -> None:
        await asyncio.sleep(0)
        try:
            await asyncio.sleep(0 if ends_with else 60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        if ends_with:
            raise ends_with

    async def run(ends_with: BaseException | None) -> None:
        task = asyncio.ensure_future(Metered(request(ends_with), steps.append))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(ValueError, match="odd"):
        in_a_loop(run(ValueError("odd")))
    assert len(steps) == 3
    with pytest.raises(asyncio.CancelledError):
        in_a_loop(run(None))
    assert len(steps) == 6
    assert seen == ["cancelled"]
