"""Feed-forward layers of several experts, of which each token uses two (MoE-LLaVA, arXiv:2401.15947).

S tokens, E experts, H hidden width, F inner width. Experts are stacked parameters [E, out, in], which transformers runs
with any of its experts implementations; for 8-bit and 4-bit loading they are linear layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation

from models.parts.moe_routing import Routing, expert_capacity, gumbel_noise, route


@dataclass(frozen=True, kw_only=True)
class SparseLayers:
    """Which layers of a language model have experts, and how tokens find them; fields as in a released config.json.

    `use_residual` keeps a dense feed-forward beside the experts (no release has it). `samples_second` draws the second
    expert instead of taking the likelier one. `is_stacked` is False for loading in 8 or 4 bits.
    """

    indices: tuple[int, ...]
    num_experts: tuple[int, ...]  # of each of these layers
    capacity_factor: float = 1.0
    eval_capacity_factor: float = 1.0
    min_capacity: int = 4
    router_aux_loss_coef: float = 0.01
    use_residual: bool = False
    samples_second: bool = False
    is_stacked: bool = True

    @property
    def drops_tokens(self) -> bool:
        """Whether an expert can be full at inference: all tokens together may choose it, so it takes E / 2 shares."""
        return any(2 * self.eval_capacity_factor < count for count in self.num_experts)


def run_experts(
    tokens: Tensor, top_k_index: Tensor, top_k_weights: Tensor, expert: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """Every expert that was chosen over its own tokens: tokens [S, H], index and weights [S, k] -> [S, H]."""
    output = torch.zeros_like(tokens)
    chosen = top_k_index.cpu()  # the host waits for a GPU here, and then no more
    for index in chosen.unique().tolist():
        token, choice = (found.to(tokens.device, non_blocking=tokens.is_cuda) for found in torch.where(chosen == index))
        found = expert(index, tokens[token]) * top_k_weights[token, choice, None]
        output.index_add_(0, token, found.to(output.dtype))
    return output


@use_experts_implementation
class GatedExperts(nn.Module):
    """Experts of the form down(act(gate(x)) * up(x)), without biases: StableLM, Qwen, Mistral."""

    def __init__(self, config: PreTrainedConfig, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.gate_up_proj = _new(num_experts, 2 * config.intermediate_size, config.hidden_size)
        self.down_proj = _new(num_experts, config.hidden_size, config.intermediate_size)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """See `run_experts`."""

        def expert(index: int, tokens: Tensor) -> Tensor:
            gate, up = functional.linear(tokens, self.gate_up_proj[index]).chunk(2, dim=-1)
            return functional.linear(self.act_fn(gate) * up, self.down_proj[index])

        return run_experts(hidden_states, top_k_index, top_k_weights, expert)


@use_experts_implementation(has_gate=False, has_bias=True)
class PlainExperts(nn.Module):
    """Experts of the form down(act(up(x))), with biases: Phi."""

    def __init__(self, config: PreTrainedConfig, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.up_proj = _new(num_experts, config.intermediate_size, config.hidden_size)
        self.up_proj_bias = nn.Parameter(torch.zeros(num_experts, config.intermediate_size))
        self.down_proj = _new(num_experts, config.hidden_size, config.intermediate_size)
        self.down_proj_bias = nn.Parameter(torch.zeros(num_experts, config.hidden_size))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """See `run_experts`."""

        def expert(index: int, tokens: Tensor) -> Tensor:
            inner = self.act_fn(functional.linear(tokens, self.up_proj[index], self.up_proj_bias[index]))
            return functional.linear(inner, self.down_proj[index], self.down_proj_bias[index])

        return run_experts(hidden_states, top_k_index, top_k_weights, expert)


class LinearExperts(nn.ModuleList):
    """The same experts as linear layers, which is what bitsandbytes knows how to shrink (it skips stacked ones)."""

    def __init__(
        self, *, num_experts: int, hidden: int, inner: int, activation: str, gated: bool, bias: bool = False
    ) -> None:
        widths = {"up_proj": (hidden, inner), "down_proj": (inner, hidden)}
        if gated:
            widths = {"gate_proj": (hidden, inner), **widths}
        super().__init__(
            nn.ModuleDict({name: nn.Linear(before, after, bias=bias) for name, (before, after) in widths.items()})
            for _ in range(num_experts)
        )
        self.act_fn = ACT2FN[activation]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """See `run_experts`."""

        def expert(index: int, tokens: Tensor) -> Tensor:
            layers = self[index]
            assert isinstance(layers, nn.ModuleDict)
            inner = self.act_fn(layers["gate_proj" if "gate_proj" in layers else "up_proj"](tokens))
            return layers["down_proj"](inner * layers["up_proj"](tokens) if "gate_proj" in layers else inner)

        return run_experts(hidden_states, top_k_index, top_k_weights, expert)


class Router(nn.Module):
    """Chooses two experts per token, in fp32 whatever the model's number format: otherwise choices flip.

    `noise` gives what is added before the second choice is made, from the logits; None adds nothing.
    """

    def __init__(self, hidden: int, num_experts: int, layers: SparseLayers) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_experts, hidden))
        self.layers = layers
        self.noise: Callable[[Tensor], Tensor] | None = gumbel_noise if layers.samples_second else None

    def forward(self, tokens: Tensor) -> Routing:
        """[S, H] -> routing of S tokens."""
        with torch.autocast(tokens.device.type, enabled=False):  # which would take linear layers back to 16 bits
            logits = functional.linear(tokens.float(), self.weight.float())
        factor = self.layers.capacity_factor if self.training else self.layers.eval_capacity_factor
        capacity = expert_capacity(*logits.shape, factor=factor, minimum=self.layers.min_capacity)
        return route(logits, capacity=capacity, noise=None if self.noise is None else self.noise(logits))


class SparseFeedForward(nn.Module):
    """Stands in for a decoder layer's feed-forward: [..., H] -> [..., H].

    Capacity counts all tokens of a call, padding included, as in the reference. With the released factors nothing is
    ever dropped at inference, so that answers do not depend on who else is served; see `SparseLayers.drops_tokens` for
    others. In training mode `balance_loss`
    holds the last call's.
    """

    def __init__(self, config: PreTrainedConfig, num_experts: int, layers: SparseLayers, dense: nn.Module) -> None:
        super().__init__()
        hidden, is_gated = config.hidden_size, not hasattr(dense, "fc1")
        self.router = Router(hidden, num_experts, layers)
        self.experts: nn.Module | None = None
        self.linear_experts: nn.Module | None = None
        if layers.is_stacked:
            self.experts = (GatedExperts if is_gated else PlainExperts)(config, num_experts)
        else:
            self.linear_experts = LinearExperts(
                num_experts=num_experts,
                hidden=hidden,
                inner=config.intermediate_size,
                activation=config.hidden_act,
                gated=is_gated,
                bias=not is_gated,
            )
        self.mlp = dense if layers.use_residual else None
        self.coefficient = nn.Linear(hidden, 2) if layers.use_residual else None
        self.balance_loss: Tensor | None = None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """See the class."""
        tokens = hidden_states.flatten(0, -2)
        routing: Routing = self.router(tokens)
        if self.training:
            self.balance_loss = routing.balance_loss()
        experts = self.linear_experts if self.experts is None else self.experts
        assert experts is not None
        output = experts(tokens, routing.experts, routing.weights.to(tokens.dtype)).view_as(hidden_states)
        if self.mlp is None or self.coefficient is None:
            return output
        shares = self.coefficient(hidden_states).softmax(dim=-1)
        return output * shares[..., :1] + self.mlp(hidden_states) * shares[..., 1:]


def sparse_layers_of(moe: Mapping[str, Any], *, samples_second: bool, is_stacked: bool) -> SparseLayers:
    """The `moe` entry of a released config.json; an empty one is a dense model. Raises ValueError, TypeError."""
    indices = tuple(moe.get("moe_layers_idx") or ())
    counts = moe.get("num_experts") or ()
    counts = (counts,) * len(indices) if isinstance(counts, int) else tuple(counts)
    kinds = {
        "capacity_factor": float, "eval_capacity_factor": float, "min_capacity": int, "router_aux_loss_coef": float,
        "use_residual": bool,
    }  # fmt: skip
    return SparseLayers(
        indices=indices,
        num_experts=counts * len(indices) if len(counts) == 1 else counts,
        samples_second=samples_second,
        is_stacked=is_stacked,
        **{name: kind(moe[name]) for name, kind in kinds.items() if name in moe},
    )


def _new(*shape: int) -> nn.Parameter:
    """Small random values: an expert is either loaded or copied from a dense layer, but never left undefined."""
    parameter = nn.Parameter(torch.empty(*shape))
    nn.init.normal_(parameter, std=0.02)
    return parameter
