"""Numbers that are none are taken out, and told of the requests that they belong to."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from engine.batching.broken_tokens import BrokenTokens, end_unread
from engine.batching.request_sampler import NO_TOKEN
from tests.pretended_gpu.installation import missing, pretended_gpus

TOKENS = (3, 1, 2)  # of three requests


def broken_at(devices: list[torch.device], layer: int, token: int) -> BrokenTokens:
    """After a step in which one number of one layer is none."""
    broken = BrokenTokens(devices, max_tokens=8)
    for each, device in enumerate(devices):
        keys, values = (torch.ones(1, 2, sum(TOKENS), 4) for _ in range(2))
        values[0, 1, token, 2] = math.inf if each == layer else 1
        contained = [side.cpu() for side in broken.contain(keys.to(device), values.to(device), each)]
        assert torch.equal(contained[0], keys)
        assert torch.equal(contained[1], values.nan_to_num(posinf=0))
    return broken


def requests_with(*have_token: bool) -> list[FutureRequestState]:
    return [
        FutureRequestState(RequestState(request_id="x", initial_tokens=[1]), has_token, {}, count)
        for has_token, count in zip(have_token, TOKENS, strict=True)
    ]


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("token", "whose"), [(0, 0), (2, 0), (3, 1), (5, 2)])
def test_a_request_is_found_by_any_of_its_tokens(layer: int, token: int, whose: int) -> None:
    broken = broken_at([torch.device("cpu")] * 2, layer, token)
    ids = torch.tensor([10, 11, 12, 77], dtype=torch.int32)
    broken.mark(ids, requests_with(True, True, True))
    assert ids.tolist() == [NO_TOKEN if place == whose else 10 + place for place in range(3)] + [77]


@pytest.mark.parametrize(("token", "expected"), [(0, [NO_TOKEN, 10, 11]), (3, [NO_TOKEN, 11]), (5, [10, NO_TOKEN])])
def test_one_whose_prompt_is_not_read_to_its_end_ends_too(token: int, expected: list[int]) -> None:
    requests = requests_with(False, True, True)
    ids = torch.tensor([10, 11, NO_TOKEN], dtype=torch.int32)  # the last is left from an earlier step
    broken_at([torch.device("cpu")], 0, token).mark(ids, requests)
    assert end_unread(requests, ids.tolist()) == expected
    assert [request.has_new_token for request in requests] == [token == 0, True, True]


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
@pytest.mark.parametrize("layer", [0, 1])
def test_layers_of_another_gpu_tell_it_too(layer: int) -> None:
    with pretended_gpus(2) as gpus:
        broken = broken_at([gpu.device for gpu in gpus], layer, token=3)
        for gpu in gpus:
            gpu.counts.reset()
        ids = torch.arange(10, 13, dtype=torch.int32).to("cuda:0", non_blocking=True)
        broken.mark(ids, requests_with(True, True, True))
        assert [gpu.counts.synchronizations for gpu in gpus] == [0, 0]
        assert ids.tolist() == [10, NO_TOKEN, 12]
