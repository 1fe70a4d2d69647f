"""Three questions in one batch, of which one makes the model compute NaN or infinity: the others get their answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import MistralConfig, MistralForCausalLM

from engine.chat_engine import ChatEngine
from models.conversation import Answer, Sampling, Turn
from models.errors import NotFinite
from models.vision_language_model import VisionLanguageModel
from tests.engine.batching.helpers import manager_of
from tests.engine.helpers import assert_idle, in_order, last, start
from tests.tiny_model import EOS, FIRST_BYTE, GREEDY, ask, tiny_model

QUESTIONS = [ask(text) for text in ("first question", "1^2 question, the second", "third question")]
VICTIM = 1
SAMPLINGS = [replace(GREEDY, temperature=0.8, repetition_penalty=1.1, seed=seed) for seed in range(3)]


def sliding_model(**options: Any) -> VisionLanguageModel:
    """The tiny model with a language model whose layers see the last 16 tokens."""
    model = tiny_model(**options)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=16, eos_token_id=EOS, initializer_range=0.4,
    )  # fmt: skip
    model.language_model = MistralForCausalLM(config).eval()
    return model


def check_that_the_others_go_on(model: VisionLanguageModel, number: float, *, in_answer: bool, **options: Any) -> None:
    """Put `number` in the embedding of an id that the victim alone has in its prompt, or says, and ask all at once."""
    with start(model, **options) as engine:
        right = all_at_once(engine)
        embedding = model.text_embedding.weight
        victims_id = _of_victim(model, right, in_answer)
        was = embedding[victims_id].clone()
        with torch.no_grad():
            embedding[victims_id] = number
        manager_of(engine).forget_prefixes()  # so that all are read again
        first, victim, third = all_at_once(engine)
        assert_idle(engine)
        assert isinstance(victim, NotFinite), victim
        assert "--dtype" in str(victim)
        assert [first, third] == [right[0], right[2]]
        with torch.no_grad():
            embedding[victims_id] = was
        assert all_at_once(engine) == right  # nothing that was computed then is used again
        assert_idle(engine)
        assert engine.stats().restarts == 0


def all_at_once(engine: ChatEngine) -> list[Answer | NotFinite]:
    """The answers without their times."""
    return in_order(engine, QUESTIONS, SAMPLINGS, _answer_or_reason)


def _answer_or_reason(engine: ChatEngine, turns: Sequence[Turn], sampling: Sampling) -> Answer | NotFinite:
    try:
        return replace(last(engine, turns, sampling), seconds=0.0)
    except NotFinite as error:
        return error


def _of_victim(model: VisionLanguageModel, answers: Sequence[Answer | NotFinite], in_answer: bool) -> int:
    """The id of a character in its answer, not at the end, or in its question, which the others neither ask nor say."""
    texts = [
        (str(model.prompt_format.render(turns)), answer.text)
        for turns, answer in zip(QUESTIONS, answers, strict=True)
        if isinstance(answer, Answer)
    ]
    asked, said = texts.pop(VICTIM)
    others = "".join(itertools.chain(*texts))
    own = said[2:-2] if in_answer else asked
    return FIRST_BYTE + ord(next(character for character in own if character.isascii() and character not in others))
