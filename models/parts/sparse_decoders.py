"""MoE-LLaVA's language models: Phi-2, StableLM-2, Qwen-1 (as Qwen2) and Mistral with experts in some of their layers.

Without experts they are the dense models of its stages 1 and 2. H hidden width, P pieces of the tokenizer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.models.stablelm.modeling_stablelm import StableLmDecoderLayer

from models.parts.moe_routing import Routing
from models.parts.sparse_moe import SparseFeedForward, SparseLayers


class VocabularyHead(nn.Linear):
    """The output head [..., H] -> [..., P]: at inference the P pieces that the tokenizer has, in training all rows.

    Released embeddings and heads have more rows than there are pieces; an answer must never contain one of those.
    """

    def limit(self, num_pieces: int) -> None:
        """Give logits for the first `num_pieces` rows only, except in training mode."""
        self.out_features = min(num_pieces, len(self.weight))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """See the class."""
        return functional.linear(hidden_states, self.weight if self.training else self.weight[: self.out_features])


class SparseDecoder(PreTrainedModel):
    """What a transformers language model needs to have experts; to be inherited before its class.

    Which layers, says `config.sparse_layers`: the fields of `SparseLayers`. In training mode the loss has the balance
    losses of all these layers added, times `router_aux_loss_coef`.
    """

    _keep_in_fp32_modules_strict = {"router"}  # noqa: RUF012 (as in the library's classes)
    model: Any

    def __init__(self, config: PreTrainedConfig) -> None:
        # The library's inner model, whose own file has no experts, refuses any implementation but this one.
        wanted, config._experts_implementation = config._experts_implementation or "grouped_mm", "eager"
        super().__init__(config)
        config._experts_implementation = wanted
        if isinstance(config, StableLmConfig):
            self.model.layers = nn.ModuleList(StableLmLayer(config, n) for n in range(config.num_hidden_layers))
        self.lm_head = VocabularyHead(config.hidden_size, config.vocab_size, bias=False)
        layers = SparseLayers(**config.sparse_layers)
        for index, num_experts in zip(layers.indices, layers.num_experts, strict=True):
            layer = self.model.layers[index]
            layer.mlp = SparseFeedForward(config, num_experts, layers, layer.mlp)

    @property
    def sparse_layers(self) -> dict[int, SparseFeedForward]:
        """The layers with experts, by index."""
        return {n: layer.mlp for n, layer in enumerate(self.model.layers) if isinstance(layer.mlp, SparseFeedForward)}

    @contextmanager
    def record_routing(self) -> Iterator[dict[int, Routing]]:
        """Within the block, the routing of this thread's last forward pass, by layer; other threads leave no trace."""
        thread, found = threading.get_ident(), dict[int, Routing]()

        def keep(layer: int, routing: Routing) -> None:
            if threading.get_ident() == thread:
                found[layer] = routing

        handles = [
            block.router.register_forward_hook(lambda _m, _a, routing, layer=layer: keep(layer, routing))
            for layer, block in self.sparse_layers.items()
        ]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    @property  # type: ignore[misc]  # nobody sets it
    def loss_function(self) -> Any:
        """What transformers' forward calls where there are labels."""
        return self._loss

    def _loss(self, logits: Tensor, labels: Tensor, vocab_size: int, **options: Any) -> Tensor:
        del vocab_size  # of all rows; at inference the head has fewer
        loss: Tensor = ForCausalLMLoss(logits, labels, logits.shape[-1], **options)
        if self.training:
            for layer in self.sparse_layers.values():
                assert layer.balance_loss is not None
                loss = loss + layer.router.layers.router_aux_loss_coef * layer.balance_loss.to(loss.device)
        return loss

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True  # transformers looks for its decorator in the text of this file; it is in sparse_moe.py


class SparsePhiConfig(PhiConfig):
    """Phi's, with `sparse_layers`."""

    model_type = "moe_llava_phi"


class SparseStableLmConfig(StableLmConfig):
    """StableLM's, with `sparse_layers`."""

    model_type = "moe_llava_stablelm"


class SparseQwen2Config(Qwen2Config):
    """Qwen2's, with `sparse_layers`."""

    model_type = "moe_llava_qwen"


class SparseMistralConfig(MistralConfig):
    """Mistral's, with `sparse_layers`."""

    model_type = "moe_llava_mistral"


class SparsePhiForCausalLM(SparseDecoder, PhiForCausalLM):
    """Phi-2 with experts."""


class SparseStableLmForCausalLM(SparseDecoder, StableLmForCausalLM):
    """StableLM-2 with experts."""


class SparseQwen2ForCausalLM(SparseDecoder, Qwen2ForCausalLM):
    """Qwen-1 with experts, which below 8192 tokens computes what a Qwen2 with its weights does."""


class SparseMistralForCausalLM(SparseDecoder, MistralForCausalLM):
    """Mistral (OpenChat) with experts."""


class StableLmLayer(StableLmDecoderLayer):
    """A sequential StableLM block. The library's (5.23) keeps its keyword arguments from the attention, which
    continuous batching needs there."""

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]  # all go to attention
        """[B, L, H] -> [B, L, H]."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        assert self.post_attention_layernorm is not None
        return hidden_states + self.dropout(self.mlp(self.post_attention_layernorm(hidden_states)))


def _converters(*sources: str, target: str) -> WeightConverter:
    join = [Concatenate(dim=1)] if len(sources) > 1 else []
    patterns = [f".mlp.experts.*.{source}" for source in sources]
    return WeightConverter(patterns, f".mlp.experts.{target}", operations=[MergeModulelist(dim=0), *join])


# transformers stacks released experts one layer at a time while it loads, so that they never are in memory twice.
_GATED = [
    _converters("gate_proj.weight", "up_proj.weight", target="gate_up_proj"),
    _converters("down_proj.weight", target="down_proj"),
]
_PLAIN = [
    _converters(f"{name}.{kind}", target=name + suffix)
    for name in ("up_proj", "down_proj")
    for kind, suffix in (("weight", ""), ("bias", "_bias"))
]
for _type, _mapping in (
    (SparsePhiConfig, _PLAIN),
    (SparseStableLmConfig, _GATED),
    (SparseQwen2Config, _GATED),
    (SparseMistralConfig, _GATED),
):
    register_checkpoint_conversion_mapping(_type.model_type, list(_mapping), overwrite=True)
