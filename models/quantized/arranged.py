"""A loaded model's layers of 8 and 4 bits, and its output head, as a CPU multiplies them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.parts.joined import SAME_INPUTS, put_joined
from models.quantized.eight_bits import EightBitLinear, quantize_rows
from models.quantized.four_bits import BLOCK, FourBitLinear
from models.tensors.bnb_int8 import LEVELS
from models.tensors.deferred import release
from models.tensors.freed import give_back_freed_memory
from models.tensors.weights import HEAD


def stand_in(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """What has the form of a weight [N, K] and takes no memory."""
    return torch.zeros(1, 1, dtype=dtype).expand(weight.shape)


MatrixRows = Iterable[Tensor]  # of a matrix, as pieces of whole rows one after the other


def arrange(module: nn.Module, head: MatrixRows | None = None, wider: Mapping[str, MatrixRows] | None = None) -> None:
    """Replace the layers of a module on a CPU that bitsandbytes has shrunk, one after the other, and its output head.

    Those of the same inputs become one, whose inputs are rounded once.

    The head's weights are those of `head`, or its own. One that is the embedding stays. Layers whose weights are named
    in `wider` become layers of 8 bits, of these weights. The module can only be used for inference afterwards, and its
    weights are in no `state_dict`.
    """
    _widen(module, wider or {})
    _arrange_children(module)
    if isinstance(module, PreTrainedModel) and HEAD not in (module.all_tied_weights_keys or ()):
        output = module.get_output_embeddings()
        assert isinstance(output, nn.Linear)
        weight, shape = output.weight.detach(), output.weight.shape
        integers, scales = quantize_rows(weight.split(max(1, 2**18 // shape[1])) if head is None else head, shape)
        module.set_output_embeddings(EightBitLinear(integers, scales, output.bias))
        release(weight)
        del output, weight, head
    give_back_freed_memory()


def _widen(module: nn.Module, rows: Mapping[str, MatrixRows]) -> None:
    """Make layers of 8 bits, of weights [N, K] that are given by name."""
    names = [name.removesuffix(".weight") for name in rows]
    for parent_name in sorted({name.rpartition(".")[0] for name in names}):
        parent = module.get_submodule(parent_name)
        left = [name for name, _ in parent.named_children() if f"{parent_name}.{name}" in names]
        together = [some for some in SAME_INPUTS if set(some) <= set(left) and _have_one_width(parent, some)]
        joined = {name for some in together for name in some}
        for some in (*together, *((name,) for name in left if name not in joined)):
            layers = [parent.get_submodule(name) for name in some]
            sizes = [int(layer.out_features) for layer in layers]  # type: ignore[arg-type]
            shape = torch.Size((sum(sizes), int(layers[0].in_features)))  # type: ignore[arg-type]
            pieces = chain.from_iterable(rows[f"{parent_name}.{name}.weight"] for name in some)
            layer = EightBitLinear(*quantize_rows(pieces, shape), _bias_of(layers))
            if len(some) > 1:
                put_joined(parent, some, layer, sizes)
            else:
                setattr(parent, some[0], layer)
            del layers, layer
            give_back_freed_memory()


def _have_one_width(parent: nn.Module, names: Sequence[str]) -> bool:
    """Whether these layers have inputs of one size, and all a bias or none."""
    layers: list[Any] = [parent.get_submodule(name) for name in names]
    return len({(layer.in_features, layer.bias is None) for layer in layers}) == 1


def _bias_of(layers: Sequence[Any]) -> Tensor | None:
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return torch.cat(biases) if biases else None


def _arrange_children(parent: nn.Module) -> None:
    for names in SAME_INPUTS:
        children: list[Any] = [getattr(parent, name, None) for name in names]
        if _are_alike(children):
            sizes = [child.out_features for child in children]
            joined = _arranged(children)
            put_joined(parent, names, joined, sizes)
            del children, joined
            give_back_freed_memory()
    for name in [name for name, _ in parent.named_children()]:
        child = parent.get_submodule(name)
        if _kind(child) is None:
            _arrange_children(child)
        else:
            setattr(parent, name, _arranged([child]))
            del child
            give_back_freed_memory()


def _kind(layer: object) -> Any:
    """bitsandbytes' class of a layer that it has shrunk, or None."""
    import bitsandbytes

    kinds = (bitsandbytes.nn.Linear8bitLt, bitsandbytes.nn.Linear4bit)
    return next((kind for kind in kinds if isinstance(layer, kind)), None)


def _are_alike(layers: Sequence[Any]) -> bool:
    """Whether their matrices can follow each other in one; 4-bit blocks must not run on from row to row."""
    import bitsandbytes

    kind = _kind(layers[0])
    if kind is None or any(_kind(layer) is not kind for layer in layers):
        return False
    if len({(layer.in_features, layer.bias is None) for layer in layers}) > 1:
        return False
    return kind is bitsandbytes.nn.Linear8bitLt or layers[0].in_features % BLOCK == 0


def _arranged(layers: Sequence[Any]) -> EightBitLinear | FourBitLinear:
    """One layer with the outputs of all of them, which are let go."""
    import bitsandbytes

    bias = _bias_of(layers)
    if isinstance(layers[0], bitsandbytes.nn.Linear8bitLt):
        largest = [layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB for layer in layers]
        return EightBitLinear(_in_one(layers), torch.cat(largest) / LEVELS, bias)
    scales = torch.cat([_scales(layer.weight.quant_state) for layer in layers])
    rows = sum(layer.weight.quant_state.shape[0] for layer in layers)
    shape = torch.Size((rows, layers[0].weight.quant_state.shape[1]))
    is_fused = layers[0].support_avx512bf16_for_cpu
    for layer in layers:
        layer.weight.module = None  # a circle, in which the old weights would stay until Python looks for such
    return FourBitLinear(_in_one(layers), scales, shape, bias, is_fused=is_fused)


def _in_one(layers: Sequence[Any]) -> Tensor:
    """Their integers or codes, one after the other."""
    values = [layer.weight.data for layer in layers]
    return values[0] if len(values) == 1 else torch.cat(values)


def _scales(state: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_blockwise

    scales: Tensor = state.absmax
    if state.nested:  # scales that are quantized themselves
        scales = dequantize_blockwise(scales, state.state2) + state.offset
    return scales.float()
