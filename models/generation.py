"""Answers through transformers' `generate`: batches, beams, and the yardstick the engine is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from models.conversation import Sampling, Turn
from models.vision_language_model import VisionLanguageModel


@dataclass(frozen=True)
class Generated:
    """The ids that were generated (the one that ended the answer included) and the answer's text."""

    ids: list[int]
    text: str


class _Penalty(LogitsProcessor):
    """Repetition penalty over generated ids and `penalised_ids`; prompts are embeddings, so they never count."""

    def __init__(self, penalty: float, penalised_ids: Sequence[int]) -> None:
        self._processor = RepetitionPenaltyLogitsProcessor(penalty)
        self._ids = list(penalised_ids)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        start = input_ids.new_tensor(self._ids).expand(len(input_ids), -1)
        return self._processor(torch.cat((start, input_ids), dim=1), scores)


class _StopStrings(StoppingCriteria):
    """Ends a row when its decoded text contains one of the format's stop strings."""

    def __init__(self, model: VisionLanguageModel) -> None:
        self._model = model

    def __call__(self, input_ids: torch.LongTensor, *_: object, **__: object) -> torch.BoolTensor:
        decode, stopped = self._model.tokenizer.decode, self._model.prompt_format.stopped
        rows = [stopped(decode(row)) for row in input_ids.tolist()]
        return torch.tensor(rows, device=input_ids.device)  # type: ignore[return-value]


@torch.inference_mode()
def generate(
    model: VisionLanguageModel,
    conversations: Sequence[Sequence[Turn]],
    sampling: Sampling,
    *,
    num_beams: int = 1,
) -> list[Generated]:
    """The next answer of every conversation, in one batch (left-padded, as the originals' evaluation does it).

    `sampling.temperature` 0 is greedy (or beam search when `num_beams` > 1).
    """
    embeds, mask = _left_pad([model.embed_prompt(turns) for turns in conversations])
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        processors.append(_Penalty(sampling.repetition_penalty, model.penalised_ids))
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    eos = list(model.eos_token_ids)
    rows = model.language_model.generate(  # type: ignore[operator]  # PreTrainedModel does not declare it
        inputs_embeds=embeds,
        attention_mask=mask,
        max_new_tokens=sampling.max_new_tokens,
        num_beams=num_beams,
        eos_token_id=eos,
        pad_token_id=eos[0],
        logits_processor=processors,
        stopping_criteria=StoppingCriteriaList([_StopStrings(model)]),
        **(drawn if sampling.temperature > 0 else {"do_sample": False}),
    )
    return [_generated(model, row) for row in rows.tolist()]


def _generated(model: VisionLanguageModel, row: list[int]) -> Generated:
    end = next((i + 1 for i, token in enumerate(row) if token in model.eos_token_ids), len(row))
    ids = row[:end]
    return Generated(ids, model.prompt_format.finish(model.tokenizer.decode(ids)))


def _left_pad(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts [L_i, H] -> embeddings [B, L, H] and attention mask [B, L], zeros on the left."""
    length = max(len(prompt) for prompt in prompts)
    embeds = prompts[0].new_zeros(len(prompts), length, prompts[0].shape[1])
    mask = torch.zeros(len(prompts), length, dtype=torch.long, device=embeds.device)
    for row, prompt in enumerate(prompts):
        embeds[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    return embeds, mask
