"""A loaded model's layers of 8 and 4 bits, and its output head, as a CPU multiplies them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.quantized.eight_bits import EightBitLinear, quantize_rows
from models.quantized.four_bits import FourBitLinear
from models.tensors.bnb_int8 import LEVELS
from models.tensors.deferred import release
from models.tensors.freed import give_back_freed_memory
from models.tensors.weights import HEAD


def stand_in(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """What has the form of a weight [N, K] and takes no memory."""
    return torch.zeros(1, 1, dtype=dtype).expand(weight.shape)


def arrange(module: nn.Module, head: Iterable[Tensor] | None = None) -> None:
    """Replace the layers of a module on a CPU that bitsandbytes has shrunk, one after the other, and its output head.

    The head's weights are those of `head`, pieces of whole rows, or its own. One that is the embedding stays. The
    module can only be used for inference afterwards, and its weights are in no `state_dict`.
    """
    _arrange_children(module)
    if isinstance(module, PreTrainedModel) and HEAD not in (module.all_tied_weights_keys or ()):
        output = module.get_output_embeddings()
        assert isinstance(output, nn.Linear)
        weight, shape = output.weight.detach(), output.weight.shape
        if head is None:
            head = weight.split(max(1, 2**18 // shape[1]))
        else:  # what transformers has made of its stand-in is as large as the head itself
            output.weight, weight = nn.Parameter(torch.empty(0)), torch.empty(0)
            give_back_freed_memory()
        integers, scales = quantize_rows(head, shape)
        module.set_output_embeddings(EightBitLinear(integers, scales, output.bias))
        release(weight)
        del output, weight, head
    give_back_freed_memory()


def _arrange_children(parent: nn.Module) -> None:
    import bitsandbytes

    for name in [name for name, _ in parent.named_children()]:
        child: Any = parent.get_submodule(name)
        if isinstance(child, bitsandbytes.nn.Linear8bitLt):
            setattr(parent, name, _eight_bits(child))
        elif isinstance(child, bitsandbytes.nn.Linear4bit):
            setattr(parent, name, _four_bits(child))
        else:
            _arrange_children(child)
            continue
        del child
        give_back_freed_memory()


def _eight_bits(layer: Any) -> EightBitLinear:
    largest = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB
    return EightBitLinear(layer.weight.data, largest / LEVELS, layer.bias)


def _four_bits(layer: Any) -> FourBitLinear:
    from bitsandbytes.functional import dequantize_blockwise

    state = layer.weight.quant_state
    layer.weight.module = None  # a circle, in which the old weights would stay until Python looks for such
    scales = state.absmax
    if state.nested:  # scales that are quantized themselves
        scales = dequantize_blockwise(scales, state.state2) + state.offset
    is_fused = layer.support_avx512bf16_for_cpu
    return FourBitLinear(layer.weight.data, scales.float(), state.shape, layer.bias, is_fused=is_fused)
