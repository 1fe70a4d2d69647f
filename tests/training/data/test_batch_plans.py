"""Which examples each batch holds: how data sets are mixed, gone through and grouped by length."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.training.data.small_data import Numbers
from training.data.batch_plans import EpochPlan, RatioPlan


def test_batches_are_drawn_by_ratio_and_each_data_set_is_gone_through_evenly() -> None:
    plan = RatioPlan([Numbers(10), Numbers(7)], [3, 1], [4, 2], length=2000, seed=1)
    batches = [plan.places(number) for number in range(2000)]
    assert all(len({which for which, _ in batch}) == 1 for batch in batches), "batches never mix data sets"
    drawn = Counter(batch[0][0] for batch in batches)
    assert drawn[0] / 2000 == pytest.approx(0.75, abs=0.03)
    assert {(which, len(batch)) for batch in batches for which, _ in batch} == {(0, 4), (1, 2)}
    first = [index for batch in batches for which, index in batch if which == 0]
    for start in range(0, len(first) - 10, 10):
        assert sorted(first[start : start + 10]) == list(range(10))
    again = RatioPlan([Numbers(10), Numbers(7)], [3, 1], [4, 2], length=2000, seed=1)
    assert [again.places(number) for number in (1999, 0, 700)] == [batches[number] for number in (1999, 0, 700)]


@pytest.mark.parametrize("by_length", [False, True])
def test_an_epoch_has_every_example_once(by_length: bool) -> None:
    plan = EpochPlan([Numbers(21), Numbers(20)], 3, group=2, epochs=2, seed=0, by_length=by_length)
    assert len(plan) == 2 * 14
    epochs = [[place for n in range(start, start + 14) for place in plan.places(n)] for start in (0, 14)]
    everything = {(0, index) for index in range(21)} | {(1, index) for index in range(20)}
    for epoch in epochs:
        assert set(epoch) == everything
        assert len(epoch) == 42  # one is there twice, to fill the last batch
    assert epochs[0] != epochs[1]


def test_batches_by_length_have_one_modality_and_even_weight() -> None:
    plan = EpochPlan([Numbers(120)], 5, group=4, epochs=1, seed=3, by_length=True)
    full = [[index for _, index in plan.places(number)] for number in range(20)]
    for batch in full:
        assert len({index % 2 for index in batch}) == 1
    for start in range(0, 20, 4):
        weights = [sum(batch) for batch in full[start : start + 4]]
        assert max(weights) - min(weights) <= 120
