"""Linear layers with 8-bit weights on a CPU: products of integers, whose sums are exact.

A row of weights has one scale, and so has each token: q = round(127 x / a) with a = max |x|, and y = a s (q W) / 127.
A token's result is the same to the bit whoever else is in the batch, as neither scales nor sums depend on others.
N outputs, K inputs, T tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 127  # of a number above zero
_MIDDLE = 128  # what stands for zero in the unsigned numbers that these products take
LEAST = 1e-30  # a token of zeros is divided by this
_FEW = 4  # tokens for which weights are better read once by a product of mixed formats than written as fp32
_TILE = 2**18  # weights that are in fp32 at a time: 1 MiB, which a core's own cache holds

# Tokens [T, K] fp32, within -1 and 1, which it may overwrite -> their products [T, N] fp32.
Product = Callable[[Tensor], Tensor]
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
        self._product = best_route()(integers, scales.float())

    def limit(self, num_pieces: int) -> None:
        """Give the first outputs only; see `VocabularyHead`."""
        self.out_features = min(num_pieces, self.out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        tokens = inputs.reshape(-1, self.in_features).float()
        largest = torch.linalg.vector_norm(tokens, float("inf"), dim=-1, keepdim=True).clamp_(min=LEAST)
        output = self._product(tokens / largest)
        output = output.mul_(largest) if self.bias is None else torch.addcmul(self.bias, output, largest)
        return output[:, : self.out_features].to(inputs.dtype).reshape(*inputs.shape[:-1], self.out_features)


def quantize_rows(pieces: Iterable[Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Weights [N, K], given as pieces of whole rows one after the other -> `EightBitLinear`'s integers and scales."""
    integers, largest, done = torch.empty(shape, dtype=torch.int8), torch.empty(shape[0]), 0
    for piece in pieces:
        rows, here = piece.float(), slice(done, done + len(piece))
        torch.amax(rows.abs(), dim=1, out=largest[here])
        integers[here] = (rows * (LEVELS / largest[here, None].clamp(min=LEAST))).round_()
        done += len(piece)
    return integers, largest / LEVELS


@cache
def best_route() -> Route:
    """The first way of multiplying integers that this CPU and this build of torch have and that is exact.

    Where there is none, weights are multiplied as the numbers that they stand for.
    """
    return next((route for route in (_fbgemm, _onednn) if _is_exact(route)), _numbers)


def has_exact_integers() -> bool:
    """Whether this CPU multiplies integers so that their sums are right."""
    return best_route() is not _numbers


def _is_exact(route: Route) -> bool:
    """Whether the largest sums come out right: on CPUs without instructions for them, kernels add in 16 bits."""
    integers = torch.full((64, 256), LEVELS, dtype=torch.int8)
    integers[1::2] = -LEVELS
    integers[2::4, ::2] = 1
    tokens = torch.ones(3, 256)
    tokens[1], tokens[2, 1::2] = -1, -1
    expected = tokens @ integers.float().T
    try:
        found = route(integers, torch.ones(64))(tokens)
    except (RuntimeError, AttributeError):  # not in this build of torch
        return False
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-3)


def _fbgemm(integers: Tensor, scales: Tensor) -> Product:
    """FBGEMM, which torch brings on x86: the tokens are made integers inside of it."""
    engine = torch.backends.quantized.engine
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # these tensors are to go one day; `_onednn` needs none
        weight = torch._empty_per_channel_affine_quantized(
            (len(scales), 0), scales=scales.double(), zero_points=zeros, axis=0, dtype=torch.qint8
        )
    weight.set_(integers.untyped_storage(), integers.storage_offset(), integers.shape, integers.stride())  # no copy
    try:
        torch.backends.quantized.engine = "fbgemm"
        packed = torch.ops.quantized.linear_prepack(weight, None)
    finally:
        torch.backends.quantized.engine = engine
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def product(tokens: Tensor) -> Tensor:
        output: Tensor = multiply(tokens, 1 / LEVELS, _MIDDLE, packed)
        return output

    return product


def _onednn(integers: Tensor, scales: Tensor) -> Product:
    """oneDNN, which also knows the instructions of CPUs without AVX-512."""
    packed = torch.ops.onednn.qlinear_prepack(integers, None)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    multiply = torch.ops.onednn.qlinear_pointwise.default

    def product(tokens: Tensor) -> Tensor:
        unsigned = tokens.mul_(LEVELS).round_().add_(_MIDDLE).to(torch.uint8)
        output: Tensor = multiply(
            unsigned, 1 / LEVELS, _MIDDLE, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return output

    return product


def _numbers(integers: Tensor, scales: Tensor) -> Product:
    """Products in fp32 with weights that are read as bytes; sums are rounded, in an order that the kernel chooses."""
    rows = max(1, _TILE // integers.shape[1])

    def product(tokens: Tensor) -> Tensor:
        if len(tokens) <= _FEW:
            few: Tensor = torch.ops.aten._weight_int8pack_mm(tokens, integers, scales)
            return few
        output = tokens.new_empty(len(tokens), len(integers))
        for part, place in zip(integers.split(rows), output.split(rows, dim=1), strict=True):
            place.copy_(functional.linear(tokens, part.float()))
        return output.mul_(scales)

    return product
