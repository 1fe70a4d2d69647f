"""Linear layers and experts with their weights in oneDNN's own layout, for inference on a CPU.

A product with a plain matrix rearranges it every time, which for a few tokens costs about as much as the product. Done
once, on one thread (16 matrices of 2048 x 768, torch 2.13, AMD EPYC), 8 tokens take 7.0 ms instead of 12.4 in fp32 and
4.2 instead of 7.7 in bf16, one token 6.5 instead of 8.0 and 3.7 instead of 6.1, 128 tokens 60 instead of 82 and 32
instead of 35. Results are the same but for rounding in fp32.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from models.parts.sparse_decoders import VocabularyHead
from models.parts.sparse_moe import GatedExperts, PlainExperts, run_experts
from models.tensors.deferred import discard, release
from models.tensors.freed import give_back_freed_memory

_LEAST_WEIGHTS = 2**19  # in a matrix; the products of smaller ones take as long as oneDNN's preparations
# In a piece of a larger matrix. While a piece is packed it is there twice; the outputs of several have to be joined.
_MOST_WEIGHTS = 2**27
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")
_HAS_BF16 = _HAS_ONEDNN and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # AVX2 alone is not enough


class PackedLinear(nn.Module):
    """`nn.Linear` for inference: [..., in] -> [..., out]. `weight` is for nothing else."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(_packed(weight), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        return _product(inputs, self.weight, self.bias)


class PackedPieces(nn.Module):
    """`PackedLinear` of a very large matrix (an output head), packed a run of outputs at a time.

    The memory of what was packed is given back at once, so that `weight` must not be used afterwards.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        count = -(-weight.numel() // _MOST_WEIGHTS)
        biases = [None] * count if bias is None else bias.tensor_split(count)
        self.pieces = nn.ModuleList()
        for rows, some in zip(weight.tensor_split(count), biases, strict=True):
            self.pieces.append(PackedLinear(rows, some))
            discard(rows)

    def forward(self, inputs: Tensor) -> Tensor:
        """See `PackedLinear`."""
        return torch.cat([piece(inputs) for piece in self.pieces], dim=-1)


class PackedExperts(nn.Module):
    """`GatedExperts`, `PlainExperts` or Mixtral's experts, packed; each computes the tokens routed to it, no others."""

    def __init__(self, experts: GatedExperts | PlainExperts | MixtralExperts) -> None:
        super().__init__()
        self.num_experts, self.act_fn = experts.num_experts, experts.act_fn
        self.is_gated = not isinstance(experts, PlainExperts)
        first, second = ("gate_up_proj" if self.is_gated else "up_proj"), "down_proj"
        named = dict(experts.named_parameters())
        self.first, self.second = (
            nn.ModuleList(
                PackedLinear(weight, None if bias is None else bias[index])
                for index, weight in enumerate(named[name].detach())
            )
            for name, bias in ((first, named.get(f"{first}_bias")), (second, named.get(f"{second}_bias")))
        )

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """See `run_experts`."""

        def expert(index: int, tokens: Tensor) -> Tensor:
            inner: Tensor = self.first[index](tokens)
            if self.is_gated:
                gate, up = inner.chunk(2, dim=-1)
                inner = self.act_fn(gate) * up
            else:
                inner = self.act_fn(inner)
            output: Tensor = self.second[index](inner)
            return output

        return run_experts(hidden_states, top_k_index, top_k_weights, expert)


def pack_weights(model: nn.Module, *, least_weights: int = _LEAST_WEIGHTS) -> None:
    """Replace the large linear layers and experts of a model that is on a CPU; elsewhere, and what does not fit, stay.

    The model can only be used for inference afterwards. Memory stays as it is, at every moment: each layer's plain
    weights are let go before the next is packed, and where they were a mapped file, its pages are given back, those of
    very large matrices piece by piece. Layers of 8 and 4 bits, shared weights (an output head that is the embedding)
    and CPUs that oneDNN has nothing for are left alone.
    """
    uses = Counter(_identity(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    _pack_children(model, uses, least_weights=least_weights)


def _pack_children(parent: nn.Module, uses: Counter[tuple[int, int]], *, least_weights: int) -> None:
    """`pack_weights` of what is inside; `uses` counts how many modules have each parameter, whatever it is in them."""
    for name in [name for name, _ in parent.named_children()]:
        child = parent.get_submodule(name)
        parameters = list(child.parameters(recurse=False))
        are_packable = all(_is_packable(matrix, least_weights) for matrix in parameters if matrix.dim() > 1)
        packed: nn.Module | None = None
        if are_packable and all(uses[_identity(parameter)] == 1 for parameter in parameters):
            # Classes derived from these, as bitsandbytes' and peft's, do more than a product.
            if isinstance(child, nn.Linear) and type(child) in (nn.Linear, VocabularyHead):
                weight = child.weight[: child.out_features]
                packed = (PackedPieces if weight.numel() > _MOST_WEIGHTS else PackedLinear)(weight, child.bias)
                del weight
            elif isinstance(child, GatedExperts | PlainExperts | MixtralExperts):
                packed = PackedExperts(child)
        if packed is None:
            _pack_children(child, uses, least_weights=least_weights)
        else:
            setattr(parent, name, packed)
            release(*parameters)
            del child, parameters
            give_back_freed_memory()


def _identity(parameter: Tensor) -> tuple[int, int]:
    """Where its values are: the same for two parameters that a file holds once."""
    has_values = parameter.layout == torch.strided and not parameter.is_meta
    return (parameter.data_ptr(), parameter.nbytes) if has_values else (id(parameter), 0)


def _is_packable(matrix: Tensor, least_weights: int) -> bool:
    """Whether oneDNN computes with such a matrix [..., out, in] here, and with gain."""
    if not _HAS_ONEDNN or matrix.device.type != "cpu" or matrix.shape[-2:].numel() < least_weights:
        return False
    return matrix.dtype == torch.float32 or (matrix.dtype == torch.bfloat16 and _HAS_BF16)


def _packed(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return packed


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return output
