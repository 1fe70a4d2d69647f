"""Choosing the next token, for every request by its own settings, inside one batched step.

Order as in transformers' `generate`: repetition penalty -> temperature -> top-p -> draw. R rows, V vocabulary.

A draw needs one number u in [0, 1) per row. It is a function of the request's seed and of how many tokens the request
has so far, so an answer is the same alone or in company, and the same again for a retry with the same seed.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState
from transformers.generation.logits_process import LogitsProcessorList

from models.conversation import Sampling
from models.errors import RequestError

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.requests import RequestState

_NUCLEUS = 256  # top-p rarely needs more candidates; a full sort of the vocabulary costs ten times this top-k on a CPU
_GREEDY = Sampling(temperature=0, repetition_penalty=1)
_BITS = 23  # of u: with fp32's 24-bit mantissa, u * total stays below total


def check(sampling: Sampling) -> Sampling:
    """The settings with whole numbers as int. Raises RequestError, one line, for a value that can't be used."""

    def number(name: str, low: float, high: float, *, above_low: bool = False) -> float:
        value = getattr(sampling, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not low <= value <= high or (above_low and value == low):
            bounds = f"{'more than' if above_low else 'at least'} {low:g} and at most {high:g}"
            raise RequestError(f"{name} is {value!r}; it must be a number, {bounds}.")
        return float(value)

    def whole(name: str, low: int, high: int) -> int:
        value = number(name, low, high)
        if value != int(value):
            raise RequestError(f"{name} is {value:g}; it must be a whole number.")
        return int(getattr(sampling, name))  # not int(value): a large seed does not fit a float

    temperature = number("temperature", 0, 100)
    return replace(
        sampling,
        temperature=temperature if temperature > 1e-6 else 0.0,  # below, fp32 can't tell it from greedy
        top_p=number("top_p", 0, 1, above_low=True),
        repetition_penalty=number("repetition_penalty", 0, 100, above_low=True),
        max_new_tokens=whole("max_new_tokens", 1, 2**31 - 1),
        seed=None if sampling.seed is None else whole("seed", -(2**63), 2**63 - 1),
    )


@dataclass
class _Row:
    """One request. `slot` is its row of the `seen` table, `num_seen` how many generated ids are marked there."""

    sampling: Sampling
    seed: int
    slot: int | None = None
    num_seen: int = 0


class RequestSampler(ContinuousBatchingLogitsProcessor):
    """Reduces each row of logits to the token its request draws, by giving that token the score +inf.

    The argmax that follows then takes it; a greedy row is left to the argmax. Requests are added and removed from any
    thread; tensors are touched by the generation loop alone. Row 0 of `seen` belongs to requests nobody added.
    """

    # Requests are told apart by their id, not by keyword arguments.
    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 (the library declares it as an instance's)
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(
        self, *, max_requests: int, vocab_size: int, device: torch.device | str, penalised_ids: Sequence[int] = ()
    ) -> None:
        self.on_unknown: Callable[[str], None] = lambda _: None  # told of each request in a batch that nobody added
        self._requests: dict[str, _Row] = {}
        self._max_requests = max_requests
        self._device = torch.device(device)
        self._penalised_ids = list(penalised_ids)
        self._seen = torch.zeros(max_requests + 1, vocab_size, dtype=torch.bool, device=device)
        self._in_batch: list[Sampling] = []
        self._uniform: list[float] = []

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
            generated = generated_ids(future.state)
            if row.sampling.repetition_penalty != 1:
                self._mark(row, generated)
            slots.append(row.slot or 0)
            self._in_batch.append(row.sampling)
            self._uniform.append(uniform(row.seed, len(generated)) if row.sampling.temperature else 0.0)
        return torch.tensor(slots, dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """[R', V] fp32 logits -> the same with +inf at each drawn token. Rows past R are padding."""
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
            chosen = scores[rows]
            logits = (chosen - chosen.amax(dim=1, keepdim=True)) / temperatures  # a tiny temperature can't overflow
            tokens = draw(logits, top_p, self._column([self._uniform[i] for i in drawn]))
            scores = scores.index_put((rows, tokens), torch.tensor(math.inf, device=scores.device))
        return scores

    def choose(self, states: Sequence[RequestState], logits: Tensor) -> list[int]:
        """The next token of each request, from logits [R, V] in fp32, outside of the library's steps."""
        rows = self.prepare_tensor_args([FutureRequestState(state, True, {}, 1) for state in states])
        tokens: list[int] = self(logits, rows).argmax(dim=1).tolist()
        return tokens

    def _mark(self, row: _Row, generated: Sequence[int]) -> None:
        """Bring a request's row of `seen` up to date."""
        if row.slot is None:
            used = {row.slot for row in list(self._requests.values())}
            row.slot = next(slot for slot in range(1, self._max_requests + 1) if slot not in used)
            self._seen[row.slot] = False
            if self._penalised_ids:
                self._seen[row.slot, self._penalised_ids] = True
        if len(generated) > row.num_seen:
            self._seen[row.slot, self._index(generated[row.num_seen :])] = True
            row.num_seen = len(generated)

    def _index(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device).unsqueeze(1)


def generated_ids(state: RequestState) -> list[int]:
    """All ids generated for a request. After it was pushed out of memory and resumed, its prompt holds the first."""
    if not state._true_initial_tokens:
        return state.generated_tokens
    return state.initial_tokens[state._true_initial_tokens :] + state.generated_tokens


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1 - 2^-23] for one step of one seed, without state: nothing to lose when a request is resumed."""
    digest = hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> (64 - _BITS)) * 2.0**-_BITS


def penalise(logits: Tensor, seen: Tensor, penalties: Tensor) -> Tensor:
    """transformers' rule for generated ids: logit / penalty if positive, else logit * penalty; [R, V] and [R, 1]."""
    return torch.where(seen, torch.where(logits < 0, logits * penalties, logits / penalties), logits)


def draw(logits: Tensor, top_p: Tensor, u: Tensor) -> Tensor:
    """One token id per row [R] from softmax(logits [R, V]) cut to its nucleus; top_p and u are [R, 1].

    The cumulative sum runs in the order of ids, not of probabilities: then rounding that swaps two nearly equal tokens
    does not change the draw.
    """
    probs = logits.softmax(dim=-1)
    if bool((top_p < 1).any()):
        probs = nucleus(probs, top_p)
    cumulative = probs.cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)
    return drawn.squeeze(1).clamp(max=logits.shape[1] - 1)


def nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """Probabilities [R, V] with zeros outside the smallest set of most likely tokens whose sum reaches top_p [R, 1]."""
    for count in (min(_NUCLEUS, probs.shape[1]), probs.shape[1]):
        top, ids = probs.topk(count, dim=-1)  # sorted, largest first
        before = top.cumsum(dim=-1) - top
        # Where the last candidate lies outside the nucleus, all of the nucleus is among the candidates.
        if count == probs.shape[1] or bool(((before[:, -1:] >= top_p) | (top_p >= 1)).all()):
            break
    keep = before < top_p  # always true for the first candidate
    return torch.where(top_p < 1, torch.zeros_like(probs).scatter(1, ids, top * keep), probs)
