"""Top-2 routing as in DeepSpeed 0.9.5: which experts see which token, with what weight, and how balanced that is.

S tokens, E experts. Source: DeepSpeed, `moe/sharded_moe.py`, `top2gating` (GShard, arXiv:2006.16668).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Routing(NamedTuple):
    """Each token's first and second expert [S, 2], their weights [S, 2] in fp32, and the router's logits [S, E].

    Weights sum to 1, or to 0 for a token that found both experts full. A tuple, because DeepSpeed's ZeRO 3 looks for
    tensors in what a module returns, to fetch its weights again for the backward pass, and sees into no other classes.
    """

    experts: Tensor
    weights: Tensor
    logits: Tensor

    def balance_loss(self) -> Tensor:
        """E * sum over the experts of (mean probability * share of first choices).

        About 1 when all are used alike, E when one gets every token.
        """
        num_experts = self.logits.shape[1]
        shares = functional.one_hot(self.experts[:, 0], num_experts).to(self.logits.dtype).mean(dim=0)
        return num_experts * (self.logits.softmax(dim=-1).mean(dim=0) * shares).sum()


def route(logits: Tensor, *, capacity: int | None = None, noise: Tensor | None = None) -> Routing:
    """Router logits [S, E] in fp32 -> the two experts of every token.

    `capacity` is the most tokens an expert takes: first choices in token order, then second choices; what finds no
    place is dropped, before the weights are normalised. `noise` [S, E] is added where the second expert is chosen, and
    nowhere else: with Gumbel noise it is drawn with its probability among the others, which the reference always does.
    """
    probabilities = logits.softmax(dim=-1)
    first = probabilities.argmax(dim=-1)
    others = (logits if noise is None else logits + noise).scatter(1, first.unsqueeze(1), -math.inf)
    experts = torch.stack((first, others.argmax(dim=-1)), dim=1)
    weights = probabilities.gather(1, experts)
    if capacity is not None:
        weights = weights * _find_places(experts, logits.shape[1], capacity)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).eps)
    return Routing(experts, weights, logits)


def _find_places(experts: Tensor, num_experts: int, capacity: int) -> Tensor:
    """Which assignments [S, 2] find a place: True where fewer than `capacity` came before."""
    first, second = functional.one_hot(experts, num_experts).unbind(dim=1)
    before_first = first.cumsum(dim=0) - first
    before_second = first.sum(dim=0) + second.cumsum(dim=0) - second
    positions = torch.stack(((before_first * first).sum(dim=1), (before_second * second).sum(dim=1)), dim=1)
    return positions < capacity


def expert_capacity(num_tokens: int, num_experts: int, *, factor: float, minimum: int) -> int | None:
    """The most tokens one expert takes of `num_tokens`, or None where it can take them all.

    An even share of the two choices of every token, times the factor, rounded up (in fp32, as the reference does).
    """
    share = torch.tensor(2 * factor, dtype=torch.float32) * (num_tokens / num_experts)
    capacity = max(int(share.ceil()), minimum)
    return capacity if capacity < num_tokens else None


def gumbel_noise(logits: Tensor) -> Tensor:
    """A sample of the Gumbel(0, 1) distribution for every logit."""
    return -torch.empty_like(logits).exponential_().log()
