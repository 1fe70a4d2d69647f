"""A linear layer's weights where they are, as products.h reads them. N outputs, K inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.native.operations import BLOCK, NumberFormat
from engine.packed_weights import PackedLinear, PackedPieces
from models.native.compiled import NoNativeCode
from models.parts.joined import JoinedPart
from models.parts.sparse_decoders import VocabularyHead
from models.quantized.eight_bits import EightBitLinear, IntegerProduct
from models.quantized.four_bits import FourBitLinear, levels

_PACKED = {torch.float32: NumberFormat.FP32, torch.bfloat16: NumberFormat.BF16}
PLAIN_FORMATS = {torch.float32: NumberFormat.PLAIN_FP32, torch.bfloat16: NumberFormat.PLAIN_BF16}


@dataclass(frozen=True, kw_only=True)
class NativeWeights:
    """Of a layer [..., K] -> [..., N]: numbers at `address`, which belong to `layer`."""

    layer: Any
    number_format: NumberFormat
    outputs: int
    inputs: int
    address: int
    scales: Tensor | None = None
    bias: Tensor | None = None


def weights_of(layers: Sequence[nn.Module]) -> list[NativeWeights]:
    """The weights whose outputs, one after the other, are those of layers with the same inputs.

    Raises NoNativeCode where there are layers that C can't read.
    """
    first = layers[0]
    if isinstance(first, JoinedPart):
        joined = first.joined
        if not all(isinstance(layer, JoinedPart) and layer.joined is joined for layer in layers):
            raise NoNativeCode("its layers are joined in another way")
        return _of_one(joined.layer)
    return [weights for layer in layers for weights in _of_one(layer)]


def _of_one(layer: nn.Module) -> list[NativeWeights]:
    if isinstance(layer, PackedPieces):
        return [weights for piece in layer.pieces for weights in _of_one(piece)]
    if isinstance(layer, EightBitLinear) and isinstance(layer.product, IntegerProduct):
        product = layer.product
        address = _in_blocks(product.packed, len(product.scales), layer.in_features)
        return [_weights(layer, NumberFormat.INT8, address, scales=product.scales)]
    if isinstance(layer, FourBitLinear) and layer.is_fused:
        return [_weights(layer, NumberFormat.NF4, layer.codes.data_ptr(), scales=layer.scales)]
    if isinstance(layer, PackedLinear) and layer.weight.dtype in _PACKED:
        address = _in_blocks(layer.weight, layer.out_features, layer.in_features)
        return [_weights(layer, _PACKED[layer.weight.dtype], address)]
    if isinstance(layer, nn.Linear) and type(layer) in (nn.Linear, VocabularyHead):
        weight, number_format = layer.weight, PLAIN_FORMATS.get(layer.weight.dtype)
        if number_format is not None and weight.is_contiguous():
            return [_weights(layer, number_format, weight.data_ptr())]
    raise NoNativeCode(f"{type(layer).__name__} has other weights than it reads")


def _weights(layer: Any, number_format: NumberFormat, address: int, *, scales: Tensor | None = None) -> NativeWeights:
    # The head of a vocabulary that was limited has no bias.
    bias = None if isinstance(layer, VocabularyHead) else layer.bias
    return NativeWeights(
        layer=layer, number_format=number_format, outputs=layer.out_features, inputs=layer.in_features,
        address=address, scales=scales, bias=bias,
    )  # fmt: skip


def _in_blocks(packed: Tensor, outputs: int, inputs: int) -> int:
    """The address of weights in oneDNN's layout. Raises NoNativeCode where it can't be that of vectors.h."""
    size = -(-outputs // BLOCK) * BLOCK * inputs * packed.element_size()
    if torch.ops.mkldnn._nbytes(packed) < size or inputs * packed.element_size() % 4:
        raise NoNativeCode("oneDNN lays weights out in another way here")
    return int(torch.ops.mkldnn.data_ptr(packed))


def nf4_levels() -> Tensor:
    """The 16 numbers that codes stand for in bfloat16, twice, as the instruction that looks them up has 32 places."""
    return levels().bfloat16().repeat(2)
