"""Whose turn it is: addresses one after the other, and within an address its browsers."""

from __future__ import annotations

import pytest

from engine import asker as module
from engine.asker import ASKER, NOBODY, Asker, Rounds

A, B, C = Asker("a", "1"), Asker("b", "1"), Asker("c", "1")


def order(rounds: Rounds, *waiting: Asker) -> list[Asker]:
    return rounds.order(waiting, lambda one: one)


def test_nobody_asks_unless_it_is_said_who() -> None:
    assert ASKER.get() == NOBODY == Asker("", "")


def test_what_is_served_is_counted_by_address() -> None:
    rounds = Rounds()
    for asker in (A, A._replace(visit="2"), B):
        rounds.begin(asker)
    assert (rounds.total, rounds.of_client("a"), rounds.of_client("b"), rounds.of_client("c")) == (3, 2, 1, 0)
    rounds.end(A)
    rounds.end(B)
    assert (rounds.total, rounds.of_client("a"), rounds.of_client("b")) == (1, 1, 0)


def test_the_last_places_of_an_address_are_for_browsers_that_have_none() -> None:
    rounds = Rounds()
    assert [module.kept_back(places) for places in (1, 3, 4, 15, 16, 48)] == [0, 0, 1, 1, 2, 6]
    for most in (3, 2):
        rounds.begin(A)
        assert rounds.may_begin(A, most + 1, 4) is (most == 3)
    other = A._replace(visit="2")
    assert rounds.may_begin(other, 3, 4)
    assert not rounds.may_begin(A, 3, 4)
    assert rounds.may_begin(A, 3, 3)  # there are few, and nothing is kept back
    rounds.begin(other)
    assert not rounds.may_begin(A._replace(visit="3"), 3, 4)


def test_a_recount_takes_the_place_of_all_counts() -> None:
    rounds = Rounds()
    rounds.begin(A)
    rounds.recount([B, B._replace(visit="2"), C])
    assert [rounds.of_client(client) for client in "abc"] == [0, 2, 1]


def test_where_nobody_was_served_they_go_in_rounds_by_arrival() -> None:
    first, second = A._replace(visit="2"), A._replace(visit="3")
    assert order(Rounds(), A, first, second, B, C) == [A, B, C, first, second]


def test_the_browsers_of_an_address_take_turns_too() -> None:
    rounds = Rounds()
    other = A._replace(visit="2")
    assert order(rounds, A, A, A, other) == [A, other, A, A]


def test_who_is_being_served_waits_for_those_who_are_not() -> None:
    rounds = Rounds()
    rounds.begin(A)
    assert order(rounds, A, B, B) == [B, A, B]
    rounds.begin(A)
    assert order(rounds, A, B, B) == [B, B, A]


def test_of_those_in_one_round_whoever_was_served_longest_ago_comes_first() -> None:
    rounds = Rounds()
    for asker in (B, A):
        rounds.begin(asker)
        rounds.end(asker)
    assert order(rounds, A, B, C) == [C, B, A]
    rounds.begin(B)
    rounds.end(B)
    assert order(rounds, A, B) == [A, B]


def test_when_an_address_was_served_last_says_nothing_of_its_second_request() -> None:
    """In the second round, the order is that of the first: of browsers, then of arrival."""
    rounds = Rounds()
    rounds.begin(A)
    rounds.end(A)
    again = A._replace(visit="2")
    assert order(rounds, B, B, A, again) == [B, again, A, B]


def test_who_used_least_lately_comes_first() -> None:
    now = [0.0]
    rounds = Rounds(lambda: now[0])
    for asker, used in ((A, 3.0), (C, 1.0), (B, 4.0)):
        rounds.begin(asker)
        rounds.end(asker, used)
    assert order(rounds, A, B, C) == [C, A, B]
    now[0] = 2 * module.HALF_LIFE
    rounds.begin(C)
    rounds.end(C, 1.0)
    assert [rounds.used(client) for client in "abcd"] == [0.75, 1.0, 1.25, 0.0]
    assert order(rounds, C, B, A) == [A, B, C]


def test_a_crowd_that_is_new_comes_behind_who_was_there_and_used_little() -> None:
    """Ten browsers that were made up for it stood before somebody who had been served before, each with a picture."""
    rounds = Rounds(lambda: 0.0)
    little, much = A._replace(visit="little"), A._replace(visit="much")
    for asker, used in ((little, 0.0), (much, 5.0)):  # too little to be measured
        rounds.begin(asker)
        rounds.end(asker, used)
    crowd = [A._replace(visit=f"new {number}") for number in range(3)]
    assert order(rounds, much, *crowd, little) == [little, *crowd, much]
    assert order(rounds, *crowd, C) == [C, *crowd]  # who is not there is not waited for
    assert order(rounds, much, *crowd) == [*crowd, much]


def test_where_nothing_is_said_of_use_who_is_new_comes_first() -> None:
    rounds = Rounds()
    rounds.begin(A)
    rounds.end(A)
    new = A._replace(visit="new")
    assert order(rounds, A, new) == [new, A]


def test_the_oldest_turns_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 4)  # an address and its browser are two
    rounds = Rounds()
    for asker in (A, B, A, C):
        rounds.begin(asker)
        rounds.end(asker, 1.0)
    assert order(rounds, A, C, B) == [B, C, A]  # B's turn is forgotten, as if it had never been
    assert len(rounds._last) == len(rounds._used) == 4
