"""Choosing the next token of every request by its own settings, inside one batched step.

The number u that a draw needs is a function of the request's seed and of its number of tokens so far. So an answer does
not depend on what else is in the batch, and a retry with the same seed repeats it. R rows, V vocabulary.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState
from transformers.generation.logits_process import LogitsProcessorList

from engine.batching.device_copies import to_device
from engine.sampling import draw, penalise, uniform
from models.conversation import Sampling

_GREEDY = Sampling(temperature=0, repetition_penalty=1)
# In place of the token of a row whose logits hold NaN or infinity. Requests end by it as by an EOS token, for which the
# library takes no negative id; it is the largest that fits its int32.
NO_TOKEN = 2**31 - 1


@dataclass
class _Row:
    """One request. `slot` is its row of the `seen` table, `num_seen` how many generated ids are marked there."""

    sampling: Sampling
    seed: int
    slot: int | None = None
    num_seen: int = 0


class RequestSampler(ContinuousBatchingLogitsProcessor):
    """Reduces each row of logits to the token its request draws, by giving that token the score +inf.

    The library's argmax then takes it; greedy rows are left to the argmax. Requests are added and removed from any
    thread; tensors are used by the generation loop alone. Row 0 of `seen` is for requests that were not added.
    """

    # Requests are told apart by their id, not by keyword arguments.
    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 (the library declares it as an instance's)
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        max_requests: int,
        vocab_size: int,
        device: torch.device | str,
        penalised_ids: Sequence[int] = (),
        num_ids: int | None = None,
    ) -> None:
        self.on_unknown: Callable[[str], None] = lambda _: None  # called with requests of a batch that were not added
        self.on_failed: Callable[[str, Exception], None] = lambda _, __: None  # with requests that can't be sampled
        self._requests: dict[str, _Row] = {}
        self._max_requests = max_requests
        self._device = torch.device(device)
        self._penalised_ids = list(penalised_ids)
        self._num_ids = vocab_size if num_ids is None else num_ids
        self._seen = torch.zeros(max_requests + 1, vocab_size, dtype=torch.bool, device=device)
        self._in_batch: list[Sampling] = []
        self._uniform: list[float] = []
        self._is_broken = torch.zeros(0, dtype=torch.bool, device=device)  # [R'] of the last logits

    def processors(self) -> ContinuousBatchingLogitsProcessorList:
        """The list that a continuous batching manager takes, with this as its only member."""
        processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([self]))
        processors.tensors_required = 1  # the library counts only processors that it converted itself
        return processors

    def add(self, request_id: str, sampling: Sampling) -> None:
        """Announce a request before it is submitted. Without a seed it gets a random one."""
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._requests[request_id] = _Row(sampling, seed)

    def remove(self, request_id: str) -> None:
        """Forget a request. If a step is under way it may still be in the batch; its token is then of no use."""
        self._requests.pop(request_id, None)

    @property
    def num_requests(self) -> int:
        """Requests added and not removed."""
        return len(self._requests)

    # What the generation loop calls ---------------------------------------------------------------------------------

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.fill_(0)

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> Tensor:
        """[R] int32: for each row of the coming logits, its row of `seen`. Marks what was generated since."""
        slots, self._in_batch, self._uniform = [], [], []
        for future in requests_with_new_token:
            row = self._requests.get(future.state.request_id)
            if row is None:
                self.on_unknown(future.state.request_id)
                row = _Row(_GREEDY, seed=0)
            try:
                generated = generated_ids(future.state)
                if row.sampling.repetition_penalty != 1:
                    self._mark(row, generated)
                number = uniform(row.seed, len(generated)) if row.sampling.temperature else 0.0
            except Exception as error:  # of this request alone: the others in the batch go on
                self.on_failed(future.state.request_id, error)
                row, number = _Row(_GREEDY, seed=0), 0.0
            slots.append(row.slot or 0)
            self._in_batch.append(row.sampling)
            self._uniform.append(number)
        return to_device(slots, self._device, torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """[R', V] fp32 logits -> the same with +inf at each drawn token. Rows past R are padding.

        Ids from `num_ids` on, which no piece of text belongs to, get -inf in place.
        """
        if scores.shape[1] > self._num_ids:
            scores[:, self._num_ids :] = -math.inf
        self._is_broken = ~scores.amax(dim=1).isfinite()
        batch = self._in_batch
        penalised = [i for i, sampling in enumerate(batch) if sampling.repetition_penalty != 1]
        if penalised:
            rows = self._index(penalised)
            penalties = self._column([batch[i].repetition_penalty for i in penalised])
            seen = self._seen[tensor_arg[rows].long()]
            scores = scores.index_copy(0, rows, penalise(scores[rows], seen, penalties))
        drawn = [i for i, sampling in enumerate(batch) if sampling.temperature]
        if drawn:
            rows = self._index(drawn)
            temperatures = self._column([batch[i].temperature for i in drawn])
            top_p = self._column([batch[i].top_p for i in drawn])
            chosen = scores[rows].masked_fill_(self._is_broken[rows].unsqueeze(1), 0)
            logits = (chosen - chosen.amax(dim=1, keepdim=True)) / temperatures  # a tiny temperature can't overflow
            tokens = draw(logits, top_p, self._column([self._uniform[i] for i in drawn]))
            scores = scores.index_put((rows, tokens), scores.new_full((), math.inf))
        return scores

    def choose(self, states: Sequence[RequestState], logits: Tensor) -> list[int]:
        """The next token of each request, from logits [R, V] in fp32, outside of the library's steps."""
        rows = self.prepare_tensor_args([FutureRequestState(state, True, {}, 1) for state in states])
        tokens: list[int] = self.without_broken(self(logits, rows).argmax(dim=1)).tolist()
        return tokens

    def without_broken(self, tokens: Tensor) -> Tensor:
        """The tokens [R'] chosen from the last logits, NO_TOKEN where these held NaN or infinity."""
        return tokens.masked_fill(self._is_broken, NO_TOKEN)

    def _mark(self, row: _Row, generated: Sequence[int]) -> None:
        """Bring a request's row of `seen` up to date."""
        if row.slot is None:
            used = {row.slot for row in list(self._requests.values())}
            row.slot = next(slot for slot in range(1, self._max_requests + 1) if slot not in used)
            self._seen[row.slot] = False
            if self._penalised_ids:
                self._seen[row.slot, self._index(self._penalised_ids)] = True
        if len(generated) > row.num_seen:
            self._seen[row.slot, self._index(generated[row.num_seen :])] = True
            row.num_seen = len(generated)

    def _index(self, values: Sequence[int]) -> Tensor:
        return to_device(values, self._device, torch.long)

    def _column(self, values: Sequence[float]) -> Tensor:
        return to_device(values, self._device, torch.float32).unsqueeze(1)


def generated_ids(state: RequestState) -> list[int]:
    """All ids generated for a request. After it was pushed out of memory and resumed, its prompt holds the first."""
    if not state._true_initial_tokens:
        return state.generated_tokens
    return state.initial_tokens[state._true_initial_tokens :] + state.generated_tokens
