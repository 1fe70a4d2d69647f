"""The mathematics of choosing a token. R rows, V vocabulary.

Order as in transformers' `generate`: repetition penalty -> temperature -> top-p -> draw. A draw needs one number u in
[0, 1) per row.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_NUCLEUS = 256  # top-p rarely needs more candidates; a full sort of the vocabulary costs ten times this top-k on a CPU
_BITS = 23  # of u: with fp32's 24-bit mantissa, u * total stays below total


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
    if not _is_cheap_to_read(top_p) or bool((top_p < 1).any()):
        probs = nucleus(probs, top_p)
    cumulative = probs.cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)
    return drawn.squeeze(1).clamp(max=logits.shape[1] - 1)


def nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """Probabilities [R, V] with zeros outside the smallest set of most likely tokens whose sum reaches top_p [R, 1]."""
    counts = (min(_NUCLEUS, probs.shape[1]), probs.shape[1]) if _is_cheap_to_read(probs) else (probs.shape[1],)
    for count in counts:
        top, ids = probs.topk(count, dim=-1)  # sorted, largest first
        before = top.cumsum(dim=-1) - top
        # Where the last candidate lies outside the nucleus, all of the nucleus is among the candidates.
        if count == probs.shape[1] or bool(((before[:, -1:] >= top_p) | (top_p >= 1)).all()):
            break
    keep = before < top_p  # always true for the first candidate
    return torch.where(top_p < 1, torch.zeros_like(probs).scatter(1, ids, top * keep), probs)


def _is_cheap_to_read(tensor: Tensor) -> bool:
    """Whether a decision may depend on its values: on a GPU the host would wait for all that is still computed."""
    return tensor.device.type == "cpu"
