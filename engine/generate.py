"""Answers through transformers' `generate`: batches, beams, and the reference the engine is measured against."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from models.conversation import Sampling, Turn
from models.errors import NotFinite, RequestError
from models.vision_language_model import VisionLanguageModel


@dataclass(frozen=True)
class Generated:
    """The ids that were generated (the one that ended the answer included) and the answer's text."""

    ids: list[int]
    text: str


class _Penalty(LogitsProcessor):
    """Repetition penalty over generated ids and `penalised_ids`, never over the prompt's `num_prompt_ids`."""

    def __init__(self, penalty: float, penalised_ids: Sequence[int], num_prompt_ids: int) -> None:
        self._processor = RepetitionPenaltyLogitsProcessor(penalty)
        self._ids = list(penalised_ids)
        self._num_prompt_ids = num_prompt_ids

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        start = input_ids.new_tensor(self._ids).expand(len(input_ids), -1)
        return self._processor(torch.cat((start, input_ids[:, self._num_prompt_ids :]), dim=1), scores)


class _Finite(LogitsProcessor):
    """Raises NotFinite instead of choosing from logits with NaN or infinity."""

    def __call__(self, _: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not scores.amax(dim=-1).isfinite().all():
            raise NotFinite.computed_by("The language model")
        return scores


class _KnownIds(LogitsProcessor):
    """No chance for ids that no piece of text belongs to."""

    def __init__(self, num_ids: int) -> None:
        self._num_ids = num_ids

    def __call__(self, _: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        is_known = torch.arange(scores.shape[-1], device=scores.device) < self._num_ids
        return scores.masked_fill(~is_known, -torch.inf)  # type: ignore[return-value]  # it stays a float tensor


class _StopStrings(StoppingCriteria):
    """Ends a row when its decoded text contains one of the format's stop strings."""

    def __init__(self, model: VisionLanguageModel, num_prompt_ids: int) -> None:
        self._model = model
        self._num_prompt_ids = num_prompt_ids

    def __call__(self, input_ids: torch.LongTensor, *_: object, **__: object) -> torch.BoolTensor:
        decode, stopped = self._model.tokenizer.decode, self._model.prompt_format.stopped
        rows = [stopped(decode(row)) for row in input_ids[:, self._num_prompt_ids :].tolist()]
        return torch.tensor(rows, device=input_ids.device)  # type: ignore[return-value]


class _StopWhenSet(StoppingCriteria):
    """Ends all rows once nobody wants them."""

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped

    def __call__(self, input_ids: torch.LongTensor, *_: object, **__: object) -> torch.BoolTensor:
        rows = torch.full((len(input_ids),), self._stopped.is_set(), device=input_ids.device)
        return rows  # type: ignore[return-value]


@torch.inference_mode()
def generate(
    model: VisionLanguageModel,
    conversations: Sequence[Sequence[Turn]],
    sampling: Sampling,
    *,
    num_beams: int = 1,
    prompt_lookup: int = 0,
    streamer: BaseStreamer | None = None,
    synced: bool = False,
    stopped: threading.Event | None = None,
) -> list[Generated]:
    """The next answer of every conversation, in one batch (left-padded, as the originals' evaluation does it).

    `sampling.temperature` 0 is greedy (or beam search when `num_beams` > 1). `prompt_lookup` guesses up to so many
    tokens at a step from what the prompt and the answer said before, and keeps those the model agrees with: greedy
    answers stay the same, and repetitive ones come sooner. `streamer` is given the prompt's ids (or none of them) and
    then each id as it is chosen. `synced`: all processes of a group answer at the same time, each with a part of the
    model, and go on until the last one is done. Once `stopped` is set, the answers end where they are. Raises
    RequestError for combinations that do not exist.
    """
    if prompt_lookup and (num_beams > 1 or len(conversations) > 1):
        raise RequestError("Prompt lookup works for one conversation at a time and without beams.")
    if streamer is not None and (num_beams > 1 or len(conversations) > 1):
        raise RequestError("Only a single answer without beams can be shown while it is written.")
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    prompts = _prompts(model, conversations)
    criteria: list[StoppingCriteria] = [] if stopped is None else [_StopWhenSet(stopped)]
    num_prompt_ids = prompts["attention_mask"].shape[1] if prompt_lookup else 0
    processors = LogitsProcessorList([_Finite()])
    if model.num_ids < len(model.text_embedding.weight):
        processors.append(_KnownIds(model.num_ids))
    if sampling.repetition_penalty != 1.0:
        processors.append(_Penalty(sampling.repetition_penalty, model.penalised_ids, num_prompt_ids))
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    eos = list(model.eos_token_ids)
    known = _known_prompt(model, conversations[0], prompts) if prompt_lookup else nullcontext(prompts)
    with known as inputs:
        rows = model.language_model.generate(  # type: ignore[operator]  # PreTrainedModel does not declare it
            **inputs,
            max_new_tokens=sampling.max_new_tokens,
            num_beams=num_beams,
            eos_token_id=eos,
            pad_token_id=eos[0],
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([_StopStrings(model, num_prompt_ids), *criteria]),
            streamer=streamer,
            synced_gpus=synced,
            **({"prompt_lookup_num_tokens": prompt_lookup} if prompt_lookup else {}),
            **(drawn if sampling.temperature > 0 else {"do_sample": False}),
        )
    return [_generated(model, row) for row in rows[:, num_prompt_ids:].tolist()]


@contextmanager
def _known_prompt(
    model: VisionLanguageModel, turns: Sequence[Turn], prompt: dict[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """A prompt as ids, for prompt lookup; within the block the language model still reads its embeddings.

    In place of image tokens the ids hold the end token, which is never a useful guess.
    """
    ids: list[int] = []
    for part in model.tokenize(model.prompt_format.render(turns)):
        ids += part if isinstance(part, list) else [model.eos_token_ids[0]] * model.num_image_tokens
    plain = model.language_model.get_input_embeddings()
    model.language_model.set_input_embeddings(_PromptFirst(plain, prompt["inputs_embeds"]))
    try:
        yield {
            "input_ids": torch.tensor([ids], device=prompt["attention_mask"].device),
            "attention_mask": prompt["attention_mask"],
        }
    finally:
        model.language_model.set_input_embeddings(plain)


class _PromptFirst(nn.Module):
    """An input embedding that puts given prompt embeddings [1, L, H] in place of the first L ids of its first call."""

    def __init__(self, plain: nn.Module, prompt: Tensor) -> None:
        super().__init__()
        self.plain = plain
        self._prompt: Tensor | None = prompt

    def forward(self, input_ids: Tensor) -> Tensor:
        """[1, at least L] ids -> [1, …, H]."""
        embeds: Tensor = self.plain(input_ids)
        if self._prompt is not None:
            embeds = torch.cat((self._prompt, embeds[:, self._prompt.shape[1] :]), dim=1)
            self._prompt = None
        return embeds


def _generated(model: VisionLanguageModel, row: list[int]) -> Generated:
    end = next((i + 1 for i, token in enumerate(row) if token in model.eos_token_ids), len(row))
    ids = row[:end]
    return Generated(ids, model.prompt_format.finish(model.tokenizer.decode(ids)))


def _prompts(model: VisionLanguageModel, conversations: Sequence[Sequence[Turn]]) -> dict[str, Tensor]:
    """Conversations -> embeddings [B, L, H] and attention mask [B, L], zeros on the left."""
    prompts = [model.embed_prompt(turns) for turns in conversations]
    length = max(len(prompt) for prompt in prompts)
    embeds = prompts[0].new_zeros(len(prompts), length, prompts[0].shape[1])
    mask = torch.zeros(len(prompts), length, dtype=torch.long, device=embeds.device)
    for row, prompt in enumerate(prompts):
        embeds[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    return {"inputs_embeds": embeds, "attention_mask": mask}
