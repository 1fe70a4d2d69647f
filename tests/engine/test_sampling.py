"""The mathematics against transformers' own processors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from engine.sampling import draw, nucleus, penalise, uniform

V = 1000


def logits(rows: int, *, spread: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("penalty", [1.05, 1.8, 0.7])
def test_penalty_equals_that_of_transformers(penalty: float) -> None:
    scores, ids = logits(3), torch.randint(V, (3, 40))
    seen = torch.zeros(3, V, dtype=torch.bool).scatter(1, ids, True)
    ours = penalise(scores, seen, torch.full((3, 1), penalty))
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, scores.clone())
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0])  # flat: more candidates than the short list holds
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_nucleus_equals_that_of_transformers(top_p: float, spread: float) -> None:
    scores = logits(4, spread=spread)
    theirs = TopPLogitsWarper(top_p)(None, scores.clone())
    ours = nucleus(scores.softmax(-1), torch.full((4, 1), top_p))
    different = (ours > 0) != theirs.isfinite()
    assert different.sum() <= 4  # the two sum up in opposite directions: rounding may move the edge by one token


def test_a_nucleus_that_reaches_top_p_exactly_ends_there_as_in_transformers() -> None:
    probs = torch.tensor([[0.25, 0.5, 0.25, 0.0]])
    theirs = TopPLogitsWarper(0.5)(None, probs.log())
    assert nucleus(probs, torch.tensor([[0.5]])).tolist() == [[0, 0.5, 0, 0]]
    assert theirs.isfinite().tolist() == [[False, True, False, False]]


def test_a_token_without_probability_is_never_drawn() -> None:
    scores = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]])
    whole = torch.ones(1, 1)
    assert draw(scores, whole, torch.tensor([[0.0]])).tolist() == [1]
    assert draw(scores, whole, torch.tensor([[1 - 2.0**-23]])).tolist() == [2]


def test_nucleus_leaves_rows_without_top_p_alone() -> None:
    probs = logits(2).softmax(-1)
    cut = nucleus(probs, torch.tensor([[1.0], [0.5]]))
    assert torch.equal(cut[0], probs[0])
    assert 0 < (cut[1] > 0).sum() < V


@pytest.mark.parametrize(("temperature", "top_p"), [(0.6, 1.0), (1.0, 0.8), (1.7, 0.95)])
def test_draws_follow_the_distribution_that_transformers_would_sample(temperature: float, top_p: float) -> None:
    """With evenly spaced numbers in place of random ones the frequencies are exact to one part in N."""
    count, small = 20000, 50
    scores = logits(1)[:, :small]
    warped = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, scores.clone()))
    u = ((torch.arange(count) + 0.5) / count).unsqueeze(1)
    drawn = draw((scores / temperature).expand(count, -1), torch.full((count, 1), top_p), u)
    frequencies = torch.bincount(drawn, minlength=small) / count
    torch.testing.assert_close(frequencies, warped.softmax(-1)[0], atol=3 / count, rtol=0)


def test_uniform_numbers_are_spread_and_stay_below_one() -> None:
    values = torch.tensor([uniform(seed, step) for seed in range(40) for step in range(50)])
    assert values.min() >= 0
    assert values.max() < 1
    assert torch.histc(values, bins=10, min=0, max=1).min() > 140
    assert uniform(7, 3) == uniform(7, 3)
