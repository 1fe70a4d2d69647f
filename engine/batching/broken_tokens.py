"""Which tokens of a step have keys or values that are NaN or infinite, and what keeps them from other requests.

On all devices the requests of a step are one row, and attention hides them from each other by a mask. It does not hide
NaN, as 0 times NaN is NaN. So such numbers are zero in the cache, and the request that they belong to is ended: it is
found on the device, and told to the host where that reads the chosen tokens, so nothing waits for it.

Q tokens of the step, K key and value heads, D head width, R requests of the step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.generation.continuous_batching.requests import FutureRequestState

from engine.batching.device_copies import to_device
from engine.batching.request_sampler import NO_TOKEN


class BrokenTokens:
    """Zeroes NaN and infinity among the new keys and values of one cache, and knows whose tokens they were.

    `devices`: of the cache's layers. A step has at most `max_tokens`.
    """

    def __init__(self, devices: Sequence[torch.device], max_tokens: int) -> None:
        # The largest number of each token in each layer. Every step writes it anew, and a CUDA graph at the same place.
        counts = {device: devices.count(device) for device in devices}
        self._peaks = {device: torch.zeros(count, max_tokens, device=device) for device, count in counts.items()}
        rows = {device: iter(peaks) for device, peaks in self._peaks.items()}
        self._rows = [next(rows[device]) for device in devices]

    def contain(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """New keys and values [1, K, Q, D] of a layer -> the same with 0 for NaN and infinity, which are noted."""
        both = torch.cat((keys, values), 1)
        peaks = self._rows[layer][: both.shape[2]]
        if both.device.type == "cpu":  # torch's norm takes there fifty times as long as these four operations
            peaks.copy_(torch.maximum(both.amax(-1), both.amin(-1).neg_()).amax((0, 1)))
        else:
            torch.linalg.vector_norm(both, torch.inf, (0, 1, 3), dtype=peaks.dtype, out=peaks)
        both.nan_to_num_(0, 0, 0)
        return both[:, : keys.shape[1]], both[:, keys.shape[1] :]

    def note(self, are_broken: Tensor) -> None:
        """[Q] bool: which tokens of a step had such numbers, in whose place something else has put 0."""
        for peaks in self._peaks.values():
            peaks.zero_()
            peaks[0, : len(are_broken)].masked_fill_(are_broken.to(peaks.device), torch.inf)

    def of_requests(self, spans: Tensor) -> Tensor:
        """[R] bool, from the first and last + 1 token [2, R] of each."""
        first, *others = (~peaks.isfinite().all(0) for peaks in self._peaks.values())
        for other in others:
            first = first | other.to(first.device, non_blocking=True)
        before = torch.nn.functional.pad(first.cumsum(0), (1, 0))
        return before[spans[1]] > before[spans[0]]

    def mark(self, output_ids: Tensor, requests: Sequence[FutureRequestState]) -> None:
        """Put NO_TOKEN in place of the tokens [≥ R] of broken requests.

        First come the tokens of the requests that get one, then a place for each of which a part of the prompt was
        read: NO_TOKEN or 0.
        """
        spans, start = [], 0
        for request in requests:
            spans.append((start, start := start + request.query_length))
        has_token = [request.has_new_token for request in requests]
        in_order = sorted(range(len(spans)), key=lambda place: not has_token[place])
        ordered = to_device([spans[place] for place in in_order], output_ids.device)
        ids = output_ids[: len(spans)]
        ids[sum(has_token) :] = 0
        ids.masked_fill_(self.of_requests(ordered.T), NO_TOKEN)


def end_unread(requests: Sequence[FutureRequestState], ids: Sequence[int]) -> list[int]:
    """The tokens of the requests that get one, from those that `mark` left.

    A broken request whose prompt is not read to its end becomes one that gets NO_TOKEN, by which it ends.
    """
    has_token = [request.has_new_token for request in requests]
    chosen, others = iter(ids[: sum(has_token)]), iter(ids[sum(has_token) :])
    tokens = []
    for request in requests:
        if not request.has_new_token:
            request.has_new_token = next(others) == NO_TOKEN
            if request.has_new_token:
                tokens.append(NO_TOKEN)
        else:
            tokens.append(next(chosen))
    return tokens
