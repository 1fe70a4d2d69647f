"""Whose prompt is prefilled first: by turns over addresses and their browsers, where the library goes by arrival.

A step prefills few tokens while answers are decoded, so that seven long prompts of one client would let everybody
else's short one wait for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from engine.asker import NOBODY, Asker


def prefill_by_turns(processor: ContinuousBatchProcessor, askers: Mapping[str, Asker]) -> None:
    """Have a processor's scheduler take prompts in the order of `by_turns`; `askers` by request, as it is then."""
    scheduler: Any = processor.scheduler
    process = scheduler._process_candidates

    def process_by_turns(candidates: list[RequestState], *args: Any) -> Any:
        return process(by_turns(candidates, askers), *args)

    scheduler._process_candidates = process_by_turns


def by_turns(candidates: Sequence[RequestState], askers: Mapping[str, Asker]) -> list[RequestState]:
    """Requests in the order of service: those that decode, as they were, then prompts: one of each address in each
    round, first of whoever has fewest requests here; and so for the browsers of an address."""
    decoding = [state for state in candidates if state.status == RequestStatus.DECODING]
    prompts = [state for state in candidates if state.status != RequestStatus.DECODING]
    if len(prompts) < 2:
        return decoding + prompts

    def asker(state: RequestState) -> Asker:
        return askers.get(state.request_id, NOBODY)

    for whose in (asker, lambda state: asker(state).client):
        prompts = _in_rounds(prompts, whose, Counter(map(whose, candidates)))
    return decoding + prompts


def _in_rounds(
    prompts: Sequence[RequestState], whose: Callable[[RequestState], Hashable], totals: Counter[Hashable]
) -> list[RequestState]:
    had: Counter[Hashable] = Counter()
    keyed: list[tuple[int, int, int]] = []
    for place, state in enumerate(prompts):
        who = whose(state)
        keyed.append((had[who], totals[who], place))
        had[who] += 1
    return [prompts[place] for *_, place in sorted(keyed)]
