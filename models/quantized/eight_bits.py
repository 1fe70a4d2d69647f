"""Linear layers with 8-bit weights on a CPU: products of integers, whose sums are exact.

A row of weights has one scale, and so has each token: q = round(127 x / a) with a = max |x|, and y = a s (q W) / 127.
Where the largest number of a token stands far above the others, most of them would be lost: what rounding has left of
such a token is multiplied as a second one, in the same product. A token's result is the same to the bit whoever else is
in the batch, as neither scales nor sums depend on others. N outputs, K inputs, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.native.integer_products import address_of, integer_products
from models.tensors.bnb_int8 import LEAST, LEVELS, round_rows

_PEAK = 8.0  # times the root of the mean square, above which a token's largest number stands far above the others
_MIDDLE = 128  # what stands for zero in the unsigned numbers that oneDNN multiplies by signed ones
_FEW = 4  # tokens for which weights are better read once by a product of mixed formats than written as fp32
_TILE = 2**18  # weights that are in fp32 at a time: 1 MiB, which a core's own cache holds

Product = Callable[[Tensor], Tensor]  # tokens [T, K] -> [T, N]
# Weights [N, K] int8 and their scales [N] -> the product, which keeps them in a layout of its own.
Route = Callable[[Tensor, Tensor], Product]


class EightBitLinear(nn.Module):
    """`nn.Linear` for inference, [..., K] -> [..., N], of weights that are `integers` [N, K] int8 times `scales` [N].

    A token that has NaN or infinity in it gets no finite result.
    """

    def __init__(self, integers: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = integers.shape
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)
        self.product = best_route()(integers, scales.float())
        self._compiled = self.product.compiled(self.bias) if isinstance(self.product, IntegerProduct) else None

    def limit(self, num_pieces: int) -> None:
        """Give the first outputs only; see `VocabularyHead`."""
        self.out_features = min(num_pieces, self.out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        tokens = inputs.reshape(-1, self.in_features)
        if self._compiled is not None:
            output = self._compiled(tokens)
        else:
            output = self.product(tokens.float())
            if self.bias is not None:
                output += self.bias
        if self.out_features < output.shape[1]:
            output = output[:, : self.out_features]
        return output.to(inputs.dtype).reshape(*inputs.shape[:-1], self.out_features)


def largest_of(rows: Tensor) -> Tensor:
    """The largest absolute value of each row [T, K], and never zero: [T, 1]; NaN where one is in the row."""
    largest = torch.maximum(rows.amax(-1, keepdim=True), rows.amin(-1, keepdim=True).neg_())  # no copy of all rows
    return largest.clamp_(min=LEAST)


def as_integers(tokens: Tensor, largest: Tensor) -> Tensor:
    """Tokens [T, K] as integers of at most LEVELS, which stands for the largest of each [T, 1]."""
    return (tokens * (LEVELS / largest)).round_().to(torch.int8)


def quantize_rows(pieces: Iterable[Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Weights [N, K], given as pieces of whole rows one after the other -> `EightBitLinear`'s integers and scales."""
    integers, largest, done = torch.empty(shape, dtype=torch.int8), torch.empty(shape[0]), 0
    for piece in pieces:
        here = slice(done, done + len(piece))
        round_rows(piece, integers[here], largest[here])
        done += len(piece)
    return integers, largest / LEVELS


@cache
def best_route() -> Route:
    """How this CPU multiplies: integers where it and this build of torch do so exactly, else what they stand for."""
    return IntegerProduct if _is_exact(IntegerProduct) else _numbers


def has_exact_integers() -> bool:
    """Whether this CPU multiplies integers so that their sums are right."""
    return best_route() is IntegerProduct


def _is_exact(route: Route) -> bool:
    """Whether the largest sums come out right: on CPUs without instructions for them, kernels add in 16 bits."""
    weights = torch.full((64, 256), LEVELS, dtype=torch.int8)
    weights[1::2] = -LEVELS
    weights[2::4, ::2] = 1
    tokens = torch.ones(3, 256)
    tokens[1], tokens[2, 1::2] = -1, -1
    try:
        found = route(weights, torch.ones(64))(tokens)
    except (RuntimeError, AttributeError):  # not in this build of torch
        return False
    return torch.allclose(found, tokens @ weights.float().T, rtol=1e-5, atol=1e-2)


class IntegerProduct:
    """oneDNN's product of unsigned by signed bytes, on CPUs with VNNI or AMX.

    What tokens are above zero for being unsigned, comes out as the same number in every token's result. `packed` are
    the weights in oneDNN's layout.
    """

    def __init__(self, weights: Tensor, scales: Tensor) -> None:
        self.packed, self.scales = torch.ops.onednn.qlinear_prepack(weights, None), scales
        self._zeros = torch.zeros(len(scales), dtype=torch.int64)
        self._excess = _sums(weights) * scales * (-_MIDDLE / LEVELS)
        self._peak = _PEAK / weights.shape[1] ** 0.5
        self._multiply = torch.ops.onednn.qlinear_pointwise.default

    def compiled(self, bias: Tensor | None) -> Product | None:
        """The same with a bias [N] in one go, in the tokens' format, where there is compiled code for these sizes.

        With AMX, of which only oneDNN's product knows, many tokens are multiplied faster by that.
        """
        native, address = integer_products(), address_of(self.packed)
        if native is None or address is None or torch.cpu._is_amx_tile_supported():
            return None
        return lambda tokens: native.eight_bits(tokens, address, self.scales, bias)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens [T, K] fp32 -> [T, N]."""
        largest = largest_of(tokens)
        rounded = as_integers(tokens, largest)
        norm = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
        found = (largest > self._peak * norm).view(-1).nonzero().view(-1)
        if len(found):
            rest = tokens[found] - rounded[found] * (largest[found] / LEVELS)
            largest = torch.cat((largest, largest_of(rest)))
            rounded = torch.cat((rounded, as_integers(rest, largest[len(tokens) :])))
        unsigned = rounded.bitwise_xor_(-_MIDDLE).view(torch.uint8)
        output: Tensor = self._multiply(
            *(unsigned, 1 / LEVELS, 0, self.packed, self.scales, self._zeros, self._excess),
            *(1.0, 0, torch.float32, "none", [], ""),
        ).mul_(largest)
        return output[: len(tokens)].index_add_(0, found, output[len(tokens) :]) if len(found) else output


def _sums(weights: Tensor) -> Tensor:
    """The sum of each row [N, K] int8: [N] int32. Some rows at a time, as torch makes int32 of all that it is given."""
    rows = max(1, _TILE // weights.shape[1])
    return torch.cat([part.sum(dim=1, dtype=torch.int32) for part in weights.split(rows)])


def _numbers(weights: Tensor, scales: Tensor) -> Product:
    """Products of fp32 with weights that are read as bytes; sums are rounded, in an order that the kernel chooses."""
    rows = max(1, _TILE // weights.shape[1])

    def product(tokens: Tensor) -> Tensor:
        if len(tokens) <= _FEW:
            few: Tensor = torch.ops.aten._weight_int8pack_mm(tokens, weights, scales)
            return few
        output = tokens.new_empty(len(tokens), len(weights))
        for part, place in zip(weights.split(rows), output.split(rows, dim=1), strict=True):
            place.copy_(functional.linear(tokens, part.float()))
        return output.mul_(scales)

    return product
