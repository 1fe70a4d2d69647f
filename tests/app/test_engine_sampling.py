"""The sampler against transformers' own processors, and the limits of the settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from app.sampling import RequestSampler, check, draw, nucleus, penalise, uniform
from models.conversation import Sampling
from models.errors import RequestError

V = 1000


def logits(rows: int, *, spread: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * spread


def request(name: str, generated: list[int]) -> FutureRequestState:
    state = RequestState(name, initial_tokens=[5, 6], generated_tokens=generated)
    return FutureRequestState(state, has_new_token=True, complete_blocks={}, query_length=1)


def choose(sampler: RequestSampler, requests: list[FutureRequestState], scores: Tensor) -> list[int]:
    return sampler(scores, sampler.prepare_tensor_args(requests)).argmax(dim=-1).tolist()


def sampler_with(**settings: Sampling) -> RequestSampler:
    sampler = RequestSampler(max_requests=4, vocab_size=V, device="cpu", penalised_ids=[1])
    for name, sampling in settings.items():
        sampler.add(name, sampling)
    return sampler


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


def test_a_request_draws_the_same_alone_and_in_company() -> None:
    hot = Sampling(temperature=1.3, top_p=0.95, repetition_penalty=1.2, seed=11)
    scores, generated = logits(3), [4, 9, 9, 30]
    alone = choose(sampler_with(a=hot), [request("a", generated)], scores[1:2].clone())
    company = sampler_with(x=replace(hot, seed=3), a=hot, g=Sampling(temperature=0, repetition_penalty=1))
    together = choose(company, [request("g", [1]), request("a", generated), request("x", [])], scores.clone())
    assert together[1] == alone[0]
    assert together[0] == scores[0].argmax()


def test_the_penalty_counts_what_was_generated_and_the_ids_given_from_the_start() -> None:
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    sampler = sampler_with(a=sampling)
    scores = torch.zeros(1, V)
    scores[0, [1, 5, 7, 8]] = torch.tensor([4.0, 2.5, 3.9, 3.0])  # 1 is given, 5 is in the prompt
    assert choose(sampler, [request("a", [])], scores.clone()) == [7]
    assert choose(sampler, [request("a", [7])], scores.clone()) == [8]
    assert choose(sampler, [request("a", [7, 8])], scores.clone()) == [5]


def test_a_slot_given_to_another_request_starts_clean() -> None:
    sampling = Sampling(temperature=0, repetition_penalty=9.0)
    scores = torch.zeros(1, V)
    scores[0, [7, 8]] = torch.tensor([1.0, 0.5])
    sampler = RequestSampler(max_requests=1, vocab_size=V, device="cpu")
    for name in "abc":
        sampler.add(name, sampling)
        assert choose(sampler, [request(name, [])], scores.clone()) == [7]
        assert choose(sampler, [request(name, [7])], scores.clone()) == [8]
        sampler.remove(name)
    assert sampler.num_requests == 0


def test_a_resumed_request_remembers_what_it_said_before() -> None:
    """Pushed out of memory, a request comes back with its first tokens as part of the prompt."""
    sampler = sampler_with(a=Sampling(temperature=0, repetition_penalty=2.0))
    state = RequestState("a", initial_tokens=[5, 6], generated_tokens=[7], max_new_tokens=9)
    resumed = FutureRequestState(state.create_equivalent_initial_request(), True, {}, 1)
    scores = torch.zeros(1, V)
    scores[0, [7, 8]] = torch.tensor([3.0, 2.0])
    assert choose(sampler, [resumed], scores) == [8]


def test_a_request_nobody_added_is_reported_and_harmless() -> None:
    sampler = sampler_with()
    told: list[str] = []
    sampler.on_unknown = told.append
    scores = logits(1)
    assert choose(sampler, [request("ghost", [])], scores.clone()) == [int(scores.argmax())]
    assert told == ["ghost"]


def test_rows_past_the_requests_are_padding() -> None:
    sampler = sampler_with(a=Sampling(seed=1))
    assert len(choose(sampler, [request("a", [])], logits(3))) == 3


def test_without_a_seed_answers_differ() -> None:
    picks = set()
    for name in map(str, range(30)):
        sampler = sampler_with(**{name: Sampling(top_p=1.0)})
        picks.add(choose(sampler, [request(name, [])], torch.zeros(1, V))[0])
    assert len(picks) > 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", float("inf")),
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", None),
        ("seed", 1.5),
        ("seed", True),
    ],
)
def test_bad_settings_are_named_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name) as caught:
        check(replace(Sampling(), **{name: value}))
    assert "\n" not in str(caught.value)


def test_good_settings_pass_and_whole_floats_become_whole_numbers() -> None:
    checked = check(Sampling(max_new_tokens=30.0, seed=2**62 + 1, temperature=0))  # type: ignore[arg-type]
    assert checked == Sampling(max_new_tokens=30, seed=2**62 + 1, temperature=0.0)
    assert type(checked.max_new_tokens) is int
