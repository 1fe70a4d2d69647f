"""Which operations a language model's decode step is made of, by the classes of its layers.

V vocabulary, H heads, K key and value heads, D head width, E hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer, GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralRMSNorm
from transformers.models.mixtral.modeling_mixtral import MixtralDecoderLayer, MixtralRMSNorm
from transformers.models.phi.modeling_phi import PhiDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm

from engine.image_tokens import ImageTokenEmbedding
from engine.native.expert_layers import NativeExperts, experts_of
from engine.native.operations import (
    MOST_CHATS,
    MOST_EXPERTS,
    MOST_SHARING,
    MOST_WIDTH,
    NumberFormat,
    Operation,
    OperationFlag,
    OperationKind,
    Program,
    RowPlace,
)
from engine.native.weight_formats import PLAIN_FORMATS, NativeWeights, nf4_levels, weights_of
from models.native.compiled import NoNativeCode
from models.native.integer_products import integer_products
from models.parts.phi import PostNormPhiLayer
from models.parts.sparse_decoders import StableLmLayer
from models.quantized.four_bits import levels_in_16_bits

_RMS_NORMS = (LlamaRMSNorm, MistralRMSNorm, MixtralRMSNorm, Qwen2RMSNorm)  # with `variance_epsilon`
_ACTIVATIONS = {
    "silu": OperationFlag(0),
    "gelu_new": OperationFlag.GELU,
    "gelu_pytorch_tanh": OperationFlag.GELU,
}


class DecoderWriter:
    """Writes a model's decode step: `program`, the products in it, and where the logits come out.

    Raises NoNativeCode where the model has layers that step.c knows nothing of.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self._config = config
        self.program = Program()
        self.products: list[NativeWeights] = []
        self._width: int = config.hidden_size
        self._hidden, self._normed, self._branch = (self.program.buffer(self._width) for _ in range(3))
        self.hidden = self._hidden
        decoder: Any = model.model
        attention = decoder.layers[0].self_attn
        self.head_dim: int = attention.head_dim
        self._heads, self._shared = config.num_attention_heads, config.num_key_value_heads
        if self._heads > MOST_SHARING * self._shared or self.head_dim > MOST_WIDTH:
            raise NoNativeCode("its heads are larger than it knows")
        self._queries = self.program.buffer((self._heads + 2 * self._shared) * self.head_dim)
        self._attended = self.program.buffer(self._heads * self.head_dim)
        self._inner = self.program.buffer(2 * config.intermediate_size)
        self._active = self.program.buffer(config.intermediate_size)
        self._scores: RowPlace | None = None  # of experts
        self._embed(model.get_input_embeddings())
        for layer in decoder.layers:
            write = _LAYERS.get(type(layer))
            if write is None:
                raise NoNativeCode(f"{type(layer).__name__} is none of the layers that it knows")
            write(self, layer)
        self.program.add(OperationKind.KEEP, self._hidden, self._normed, n=self._width)
        self._norm(decoder.norm if hasattr(decoder, "norm") else decoder.final_layernorm, self._normed, self._normed)
        head = weights_of([model.get_output_embeddings()])
        self.logits = self.program.buffer(sum(weights.outputs for weights in head), most=MOST_CHATS)
        self._multiply(head, self._normed, self.logits)

    def _embed(self, embedding: nn.Module) -> None:
        if isinstance(embedding, ImageTokenEmbedding):
            embedding = embedding.text_embedding
        scale = getattr(embedding, "embed_scale", None)
        if not isinstance(embedding, nn.Embedding) or (scale is None and type(embedding) is not nn.Embedding):
            raise NoNativeCode(f"{type(embedding).__name__} is no embedding that it knows")
        self.vocabulary = embedding.num_embeddings
        number_format = PLAIN_FORMATS.get(embedding.weight.dtype)
        if number_format is None:
            raise NoNativeCode(f"its embedding is {embedding.weight.dtype}")
        self.program.add(
            OperationKind.EMBED, self._hidden, self._hidden, format=number_format, n=embedding.embedding_dim,
            value=1.0 if scale is None else float(scale.to(embedding.weight.dtype)),
            weights=self.program.address(embedding.weight.detach()),
        )  # fmt: skip

    def _norm(self, norm: Any, source: RowPlace, target: RowPlace, *, count: int = 1) -> None:
        """`count` runs of numbers, each by itself."""
        flags, bias, weight = OperationFlag(0), getattr(norm, "bias", None), norm.weight
        if isinstance(norm, nn.LayerNorm):
            flags, epsilon = OperationFlag.CENTRED, norm.eps
        elif isinstance(norm, GemmaRMSNorm):
            epsilon, weight = norm.eps, 1 + norm.weight.detach().float()
        elif isinstance(norm, nn.RMSNorm) and norm.eps is not None:
            epsilon = norm.eps
        elif isinstance(norm, _RMS_NORMS):
            epsilon = norm.variance_epsilon
        else:
            raise NoNativeCode(f"{type(norm).__name__} is none of the norms that it knows")
        self.program.add(
            OperationKind.NORM, source, target, flags=flags, n=weight.numel(), count=count, value=epsilon,
            weights=self.program.numbers(weight), bias=self.program.numbers(bias),
        )  # fmt: skip

    def _multiply(
        self, parts: Sequence[NativeWeights], source: RowPlace, target: RowPlace, *, adding: bool = False
    ) -> None:
        """Products of the same inputs, whose outputs lie one after the other."""
        for weights in parts:
            self.program.operations.append(self._product(weights, source, target, adding=adding))
            target = target.further(weights.outputs)

    def _product(
        self, weights: NativeWeights, source: RowPlace, target: RowPlace, *, adding: bool = False
    ) -> Operation:
        self.products.append(weights)
        return product_of(self.program, weights, source, target, adding=adding)

    def attend(self, attention: Any, target: RowPlace, *, adding: bool) -> None:
        """Attention of the normed numbers, with its projections."""
        parts = weights_of([attention.q_proj, attention.k_proj, attention.v_proj])
        heads, shared, width = self._heads, self._shared, self.head_dim
        if sum(weights.outputs for weights in parts) != (heads + 2 * shared) * width:
            raise NoNativeCode("its heads have other sizes than its configuration says")
        self._multiply(parts, self._normed, self._queries)
        if getattr(attention, "qk_layernorm", False):
            keys = self._queries.further(heads * width)
            for norm, place, count in (
                (attention.q_layernorm, self._queries, heads),
                (attention.k_layernorm, keys, shared),
            ):
                self._norm(norm, place, place, count=count)
        rotated = getattr(attention, "rotary_ndims", width)
        self.program.add(
            OperationKind.ROTATE, self._queries, self._queries, n=rotated, k=width, count=heads + shared
        )  # its cosines and sines come later
        self.program.add(
            OperationKind.ATTEND, self._queries, self._attended, n=heads // shared, k=width, count=shared,
            layer=attention.layer_idx, value=attention.scaling,
        )  # fmt: skip
        output = attention.dense if hasattr(attention, "dense") else attention.o_proj
        self._multiply(weights_of([output]), self._attended, target, adding=adding)

    def feed_forward(self, mlp: Any) -> None:
        """The normed numbers through a feed-forward, dense or of experts, added to the residual stream."""
        found = experts_of(mlp)
        if found is not None:
            self._choose_experts(found)
            return
        is_gated = hasattr(mlp, "gate_proj")
        if not is_gated and not hasattr(mlp, "fc1"):
            raise NoNativeCode(f"{type(mlp).__name__} is no feed-forward that it knows")
        first, last = ([mlp.gate_proj, mlp.up_proj], mlp.down_proj) if is_gated else ([mlp.fc1], mlp.fc2)
        self._multiply(weights_of(first), self._normed, self._inner)
        self.program.operations.append(self._activation(is_gated))
        self._multiply(weights_of([last]), self._active, self._hidden, adding=True)

    def _activation(self, is_gated: bool) -> Operation:
        activation = _ACTIVATIONS.get(self._config.hidden_act)
        if activation is None:
            raise NoNativeCode(f"{self._config.hidden_act} is no activation that it knows")
        flags = activation | (OperationFlag.GATED if is_gated else 0)
        width = self._config.intermediate_size
        return self.program.operation(OperationKind.ACTIVATE, self._inner, self._active, flags=flags, n=width)

    def _choose_experts(self, found: NativeExperts) -> None:
        if self._scores is None:
            self._scores, self._gathered = self.program.buffer(MOST_EXPERTS), self.program.buffer(self._width)
        self._multiply([found.router], self._normed, self._scores)
        parts = []
        for first, second in found.experts:
            parts.append(self._product(first, self._gathered, self._inner))
            parts.append(self._activation(found.is_gated))
            parts.append(self._product(second, self._active, self._branch))
        self.program.add(
            OperationKind.EXPERTS, self._normed, self._hidden, n=self._width, k=found.chosen, count=len(found.experts),
            other=self._scores.buffer, weights=self.program.array(parts),
        )  # fmt: skip

    # Kinds of layers --------------------------------------------------------------------------------------------------

    def sequential(self, layer: Any) -> None:
        """x + attention(norm(x)), then x + feed-forward(norm(x))."""
        self._norm(layer.input_layernorm, self._hidden, self._normed)
        self.attend(layer.self_attn, self._hidden, adding=True)
        self._norm(layer.post_attention_layernorm, self._hidden, self._normed)
        self.feed_forward(layer.mlp)

    def parallel(self, layer: Any) -> None:
        """x + attention(norm(x)) + feed-forward(norm(x)); TinyGPT-V norms what attention gives."""
        self._norm(layer.input_layernorm, self._hidden, self._normed)
        has_norm = isinstance(layer, PostNormPhiLayer)
        self.attend(layer.self_attn, self._branch if has_norm else self._hidden, adding=not has_norm)
        if has_norm:
            self._norm(layer.post_layernorm, self._branch, self._branch)
            self.program.add(OperationKind.ADD, self._branch, self._hidden, n=self._width)
        self.feed_forward(layer.mlp)


_LAYERS: dict[type[nn.Module], Callable[[DecoderWriter, Any], None]] = {
    LlamaDecoderLayer: DecoderWriter.sequential,
    MistralDecoderLayer: DecoderWriter.sequential,
    MixtralDecoderLayer: DecoderWriter.sequential,
    Qwen2DecoderLayer: DecoderWriter.sequential,
    GemmaDecoderLayer: DecoderWriter.sequential,
    StableLmLayer: DecoderWriter.sequential,
    PhiDecoderLayer: DecoderWriter.parallel,
    PostNormPhiLayer: DecoderWriter.parallel,
}


def product_of(
    program: Program, weights: NativeWeights, source: RowPlace, target: RowPlace, *, adding: bool = False
) -> Operation:
    """One product."""
    is_nf4 = weights.number_format == NumberFormat.NF4
    many = integer_products() if is_nf4 else None
    return program.operation(
        OperationKind.PRODUCT, source, target, flags=OperationFlag.ADDING if adding else 0,
        format=weights.number_format, n=weights.outputs, k=weights.inputs, weights=weights.address,
        scales=None if weights.scales is None else program.address(weights.scales),
        bias=program.numbers(weights.bias), levels=program.address(nf4_levels()) if is_nf4 else None,
        many=None if many is None else many.four_bits_address,
        many_levels=None if many is None else program.address(levels_in_16_bits()),
    )  # fmt: skip
