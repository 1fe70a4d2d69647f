"""Prompts are prefilled by turns, so that nobody waits for all the long ones of somebody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from engine.asker import ASKER, Asker
from engine.batching.prefill_turns import by_turns
from engine.chat_engine import ChatEngine
from tests.engine.batching.helpers import manager_of
from tests.tiny_model import GREEDY, ask, tiny_model


def state(name: str, *, decodes: bool = False) -> RequestState:
    made = RequestState(name, [1, 2, 3])
    made._status = RequestStatus.DECODING if decodes else RequestStatus.PENDING
    return made


def test_somebody_elses_prompt_goes_before_the_many_of_one() -> None:
    askers = {f"many {number}": Asker("1.1.1.1", "a") for number in range(7)}
    askers |= {"neighbour": Asker("1.1.1.1", "b"), "other": Asker("2.2.2.2", "c")}
    candidates = [state(name, decodes=name == "many 3") for name in askers]
    names = [one.request_id for one in by_turns(candidates, askers)]
    assert names[:4] == ["many 3", "other", "neighbour", "many 0"]
    assert names[4:] == ["many 1", "many 2", "many 4", "many 5", "many 6"]


def test_without_addresses_the_order_is_that_of_arrival() -> None:
    candidates = [state(f"chat-{number}") for number in range(5)]
    assert by_turns(candidates, {}) == candidates


def test_the_loop_knows_whose_each_prompt_is(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[str] = []

    def noted(candidates: Sequence[RequestState], askers: Mapping[str, Asker]) -> list[RequestState]:
        ordered = by_turns(candidates, askers)
        orders.append("".join(askers[one.request_id].client for one in ordered))
        return ordered

    monkeypatch.setattr("engine.batching.prefill_turns.by_turns", noted)
    token = ASKER.set(Asker("1.1.1.1"))
    try:
        with ChatEngine(tiny_model(), max_concurrent=4, update_interval=0) as engine:
            list(engine.stream(ask("a prompt"), GREEDY))
            assert not manager_of(engine).askers
    finally:
        ASKER.reset(token)
    assert "1.1.1.1" in orders
