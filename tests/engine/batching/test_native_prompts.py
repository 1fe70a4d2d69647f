"""The engine reads prompts in C where it can, with the answers that the model gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import random_models
from engine.generate import generate
from engine.native.native_step import NativeStep
from engine.native.prompt_pieces import Piece, PieceRead
from models.conversation import Turn
from models.vision_language_model import VisionLanguageModel
from tests.engine.helpers import answers_in_order, last, start
from tests.engine.native.helpers import need_compiled_code
from tests.tiny_model import GREEDY, ask

compiled = need_compiled_code


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many chats have tokens in each piece that was read in C."""
    counts: list[int] = []
    original = NativeStep.read

    def counted(step: NativeStep, piece: Piece, *args: Any, **options: Any) -> PieceRead:
        counts.append(len(piece.spans))
        return original(step, piece, *args, **options)

    monkeypatch.setattr(NativeStep, "read", counted)
    return counts


@pytest.fixture
def model() -> VisionLanguageModel:
    return random_models.random_model("llama", random_models.SMALL, context_tokens=256)


def test_prompts_with_pictures_beside_others(model: VisionLanguageModel, read: list[int]) -> None:
    chats = [ask("what is it " * length, random_models.picture(length)) for length in (1, 5, 3)]
    expected = [generate(model, [chat], GREEDY)[0].text for chat in chats]
    with start(model) as engine:
        assert [answer.text for answer in answers_in_order(engine, chats, [GREEDY] * 3)] == expected
    assert max(read) > 1  # several prompts, or a prompt beside answers


def test_a_long_prompt_and_the_next_question(model: VisionLanguageModel, read: list[int]) -> None:
    question = random_models.question(120, 1)
    with start(model, max_batch_tokens=32) as engine:
        first = last(engine, [question])
        steps = len(read)
        turns = [question, Turn("assistant", first.text), random_models.question(4, 2)]
        second = last(engine, turns)
    assert [first.text, second.text] == [generate(model, [chat], GREEDY)[0].text for chat in ([question], turns)]
    assert steps >= 4
    assert len(read) - steps <= 2  # only what is new


def test_a_model_that_somebody_looks_into_reads_itself(model: VisionLanguageModel, read: list[int]) -> None:
    hook = model.language_model.register_forward_hook(lambda *_: None)
    with start(model) as engine:
        last(engine, ask("what is it"))
    hook.remove()
    assert not read


def test_prompts_of_16_bits_are_left_to_processors_with_amx(read: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    model = random_models.random_model("llama", random_models.SMALL, dtype=torch.bfloat16, context_tokens=256)
    with start(model) as engine:
        last(engine, ask("what is it"))
    assert not read
