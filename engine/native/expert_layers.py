"""Feed-forward layers of several experts, as C reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers.models.mixtral.modeling_mixtral import MixtralExperts, MixtralSparseMoeBlock

from engine.native.operations import MOST_EXPERTS
from engine.native.weight_formats import PLAIN_FORMATS, NativeWeights, weights_of
from engine.packed_weights import PackedExperts
from models.native.compiled import NoNativeCode
from models.parts.sparse_moe import GatedExperts, LinearExperts, PlainExperts, SparseFeedForward


@dataclass(frozen=True)
class NativeExperts:
    """`router` [experts, hidden] gives each token's scores, of which the `chosen` highest count. `experts`: the weights
    of each expert's first product and of its second."""

    router: NativeWeights
    chosen: int
    experts: list[tuple[NativeWeights, NativeWeights]]
    is_gated: bool


def experts_of(mlp: nn.Module) -> NativeExperts | None:
    """Of a feed-forward; None where it has no experts. Raises NoNativeCode for kinds of them that C doesn't know."""
    router: Any
    inner: Any
    if isinstance(mlp, MixtralSparseMoeBlock):
        router, chosen, inner = mlp.gate, int(mlp.gate.top_k), mlp.experts
    elif isinstance(mlp, SparseFeedForward):
        layers = mlp.router.layers
        if mlp.mlp is not None or mlp.router.noise is not None or layers.drops_tokens:
            raise NoNativeCode("its experts are chosen in another way")
        router, chosen, inner = mlp.router, 2, mlp.linear_experts if mlp.experts is None else mlp.experts
    else:
        return None
    experts, is_gated = _experts(inner)
    if len(experts) > MOST_EXPERTS:
        raise NoNativeCode(f"it has more than {MOST_EXPERTS} experts")
    return NativeExperts(_plain(router.weight.detach().float(), None), chosen, experts, is_gated)


def _experts(inner: Any) -> tuple[list[tuple[NativeWeights, NativeWeights]], bool]:
    if isinstance(inner, PackedExperts):
        pairs = zip(inner.first, inner.second, strict=True)
        return [(_one(first), _one(second)) for first, second in pairs], inner.is_gated
    if isinstance(inner, LinearExperts):
        layers = [own for own in inner if isinstance(own, nn.ModuleDict)]  # beside their activation
        is_gated = "gate_proj" in layers[0]
        names = ("gate_proj", "up_proj") if is_gated else ("up_proj",)
        return [(_one(*(own[name] for name in names)), _one(own["down_proj"])) for own in layers], is_gated
    if isinstance(inner, GatedExperts | MixtralExperts):
        pairs = zip(inner.gate_up_proj, inner.down_proj, strict=True)
        return [(_plain(first, None), _plain(second, None)) for first, second in pairs], True
    if isinstance(inner, PlainExperts):
        parts = (inner.up_proj, inner.up_proj_bias, inner.down_proj, inner.down_proj_bias)
        return [(_plain(up, more), _plain(down, last)) for up, more, down, last in zip(*parts, strict=True)], False
    raise NoNativeCode(f"{type(inner).__name__} are no experts that it knows")


def _one(*layers: nn.Module) -> NativeWeights:
    found = weights_of(layers)
    if len(found) != 1:
        raise NoNativeCode("its experts' layers are not joined")
    return found[0]


def _plain(weight: Any, bias: Tensor | None) -> NativeWeights:
    """Of a matrix [N, K]."""
    number_format = PLAIN_FORMATS.get(weight.dtype)
    if number_format is None or not weight.is_contiguous():
        raise NoNativeCode("its experts have other weights than it reads")

    def layer(rows: Tensor) -> Tensor:
        return functional.linear(rows.to(weight.dtype), weight, bias)

    return NativeWeights(
        layer=layer, number_format=number_format, outputs=weight.shape[0], inputs=weight.shape[1],
        address=weight.data_ptr(), bias=bias,
    )  # fmt: skip
