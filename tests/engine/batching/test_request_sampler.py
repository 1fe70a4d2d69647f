"""Every request of a batch by its own settings, whatever else is in it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from engine.batching.request_sampler import RequestSampler
from models.conversation import Sampling

V = 1000


def logits(rows: int, *, seed: int = 0) -> Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * 3


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


def test_every_token_of_an_answer_has_a_draw_of_its_own() -> None:
    sampler = sampler_with(a=Sampling(top_p=1.0, repetition_penalty=1, seed=5))
    picks = {choose(sampler, [request("a", [0] * step)], torch.zeros(1, V))[0] for step in range(30)}
    assert len(picks) > 20


def test_without_a_seed_answers_differ() -> None:
    picks = set()
    for name in map(str, range(30)):
        sampler = sampler_with(**{name: Sampling(top_p=1.0)})
        picks.add(choose(sampler, [request(name, [])], torch.zeros(1, V))[0])
    assert len(picks) > 10
