"""The way the original demos work, on our models: the yardstick of every comparison.

Per question: the whole conversation is tokenized, embedded and read again, by one `generate` at a time; Mini-Gemini and
MoE-LLaVA also encode its images again. Sources: MiniGPT-4, `minigpt4/conversation/conversation.py` (`answer_prepare`);
Mini-Gemini, `mgm/serve/cli.py`; MoE-LLaVA, `moellava/serve/cli.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks.measure import Clock
from engine.answer_text import stop_check
from models.conversation import Turn
from models.parts.moe_routing import Routing
from models.parts.sparse_moe import PlainExperts, SparseFeedForward
from models.vision_language_model import VisionLanguageModel


@dataclass(frozen=True, kw_only=True)
class OriginalAnswer:
    """An answer's text, its number of tokens, and when the first of them was there."""

    text: str
    num_tokens: int
    first_token: float


class _Watch(StoppingCriteria):
    """Notes when there is a first token, and stops at a stop string, as MiniGPT-4's `StoppingCriteriaSub`."""

    def __init__(self, model: VisionLanguageModel, clock: Clock) -> None:
        self._stops = stop_check(model.tokenizer.decode, model.prompt_format) or (lambda _: False)
        self._clock = clock
        self.first: float | None = None

    def __call__(self, input_ids: torch.LongTensor, *_: object, **__: object) -> torch.BoolTensor:
        if self.first is None:
            self.first = self._clock()
        stopped = [self._stops(row) for row in input_ids.tolist()]
        return torch.tensor(stopped, device=input_ids.device)  # type: ignore[return-value]


class OriginalChat:
    """Greedy answers, one after the other. With `keeps_images` an image is encoded once, as MiniGPT-4's demo does.

    To be made before an engine takes the model: on a CPU that gives it weights which the originals do not have.
    """

    def __init__(self, model: VisionLanguageModel, clock: Clock, *, keeps_images: bool) -> None:
        self._model = copy.deepcopy(model) if clock.device.type == "cpu" else model
        self._clock = clock
        self._kept: dict[int, Tensor] | None = {} if keeps_images else None

    @torch.inference_mode()
    def answer(self, turns: Sequence[Turn], max_new_tokens: int) -> OriginalAnswer:
        """The next answer of a conversation."""
        embeds = self._embed(turns).unsqueeze(0)
        watch = _Watch(self._model, self._clock)
        ids = self._model.language_model.generate(  # type: ignore[operator]  # PreTrainedModel does not declare it
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(self._model.eos_token_ids),
            pad_token_id=self._model.eos_token_ids[0],
            stopping_criteria=StoppingCriteriaList([watch]),
        )[0].tolist()
        assert watch.first is not None
        text = self._model.prompt_format.finish(self._model.tokenizer.decode(ids))
        return OriginalAnswer(text=text, num_tokens=len(ids), first_token=watch.first)

    def encode(self, images: Sequence[Image.Image]) -> None:
        """Encode images before anything is measured, where they are kept."""
        for image in images:
            self._image(image)

    def _image(self, image: Image.Image) -> Tensor:
        if self._kept is not None and id(image) in self._kept:
            return self._kept[id(image)]
        features = self._model.encode_images([image])[0]
        if self._kept is not None:
            self._kept[id(image)] = features
        return features

    def _embed(self, turns: Sequence[Turn]) -> Tensor:
        model = self._model
        embed = model.text_embedding
        return torch.cat(
            [
                self._image(part).to(embed.weight.dtype) * model.embed_scale
                if isinstance(part, Image.Image)
                else embed(torch.tensor(part, dtype=torch.long, device=model.device))
                for part in model.tokenize(model.prompt_format.render(turns))
            ]
        )


def dispatch_by_einsum(block: SparseFeedForward, tokens: Tensor) -> Tensor:
    """What DeepSpeed 0.9.5 computes for a block: [S, H] -> [S, H], every expert over a buffer of C places [E, C, H].

    Source: DeepSpeed, `moe/sharded_moe.py` (`MOELayer.forward`, `top2gating`), without its process groups and noise.
    """
    routing: Routing = block.router(tokens)
    count, num_experts = routing.logits.shape
    factor = block.router.layers.eval_capacity_factor
    capacity = min(count, max(int(-(-2 * factor * count // num_experts)), block.router.layers.min_capacity))
    chosen = functional.one_hot(routing.experts, num_experts)  # [S, 2, E]
    first, second = chosen.unbind(dim=1)
    places = torch.stack((first.cumsum(0) - 1, second.cumsum(0) - 1 + first.sum(0)), dim=1)  # [S, 2, E]
    position = (places * chosen).sum(-1)  # [S, 2]
    at = functional.one_hot(position.clamp(max=capacity - 1), capacity) * (position < capacity).unsqueeze(-1)
    combine = torch.einsum("sk,ske,skc->sec", routing.weights, chosen.float(), at.float())
    dispatched = torch.einsum("sec,sm->ecm", combine.bool().to(tokens.dtype), tokens)
    outputs = torch.stack([run(buffer) for run, buffer in zip(_experts(block), dispatched, strict=True)])
    return torch.einsum("sec,ecm->sm", combine.to(tokens.dtype), outputs)


def _experts(block: SparseFeedForward) -> list[Callable[[Tensor], Tensor]]:
    """Each expert as a function of [C, H]."""
    stacked: Any = block.experts

    def gated(index: int) -> Callable[[Tensor], Tensor]:
        def run(tokens: Tensor) -> Tensor:
            gate, up = functional.linear(tokens, stacked.gate_up_proj[index]).chunk(2, dim=-1)
            return functional.linear(stacked.act_fn(gate) * up, stacked.down_proj[index])

        return run

    def plain(index: int) -> Callable[[Tensor], Tensor]:
        def run(tokens: Tensor) -> Tensor:
            inner = functional.linear(tokens, stacked.up_proj[index], stacked.up_proj_bias[index])
            return functional.linear(stacked.act_fn(inner), stacked.down_proj[index], stacked.down_proj_bias[index])

        return run

    return [(plain if isinstance(stacked, PlainExperts) else gated)(n) for n in range(block.router.weight.shape[0])]
