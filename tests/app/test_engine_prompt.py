"""Conversations that do not fit, or make no sense: what the engine leaves out, refuses, and says about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.engine import ChatEngine
from app.engine_stream import AnswerStream
from models.conversation import Answer, Turn
from models.errors import ContextOverflow, RequestError
from models.generation import generate
from models.vision_language_model import VisionLanguageModel
from tests.app.tiny_model import GREEDY, ScriptedLlama, ask, picture, prompt_tokens, tiny_model

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def engine(model: VisionLanguageModel) -> Iterator[ChatEngine]:
    with ChatEngine(model, page_size=8, max_batch_tokens=64, update_interval=0) as engine:
        yield engine


def last(stream: AnswerStream) -> Answer:
    return list(stream)[-1]


def conversation(*, pairs: int, first_image: int | None = None) -> tuple[Turn, ...]:
    images = () if first_image is None else (picture(first_image),)
    turns = [Turn("user", "q0 " + "x" * 40, images), Turn("assistant", "a0 " + "y" * 40)]
    for i in range(1, pairs):
        turns += [Turn("user", f"q{i} " + "x" * 40), Turn("assistant", f"a{i} " + "y" * 40)]
    return (*turns, Turn("user", "and now?"))


def test_whole_oldest_turns_are_left_out_visibly(engine: ChatEngine, model: VisionLanguageModel) -> None:
    turns = conversation(pairs=8)
    answer = last(engine.stream(turns, GREEDY))
    assert answer.dropped_turns > 0
    assert answer.dropped_turns % 2 == 0
    (notice,) = answer.notices
    assert f"longer than the model's context: its first {answer.dropped_turns} messages were left out." in notice
    kept = turns[answer.dropped_turns :]
    assert answer.text == generate(model, [kept], GREEDY)[0].text
    assert answer.num_prompt_tokens + 24 <= 512 < prompt_tokens(model, turns[answer.dropped_turns - 2 :]) + 24


def test_the_only_image_survives_its_turn(engine: ChatEngine, model: VisionLanguageModel) -> None:
    turns = conversation(pairs=8, first_image=1)
    answer = last(engine.stream(turns, GREEDY))
    kept = list(turns[answer.dropped_turns :])
    kept[0] = replace(kept[0], images=(picture(1),))
    assert answer.text == generate(model, [kept], GREEDY)[0].text
    assert "but not the image" in answer.notices[0]


def test_a_newer_image_lets_the_old_one_go(engine: ChatEngine, model: VisionLanguageModel) -> None:
    turns = [*conversation(pairs=8, first_image=1)]
    turns[-1] = replace(turns[-1], images=(picture(2),))
    answer = last(engine.stream(turns, GREEDY))
    assert answer.text == generate(model, [turns[answer.dropped_turns :]], GREEDY)[0].text
    assert engine.stats().images_held == 1


def test_one_question_that_does_not_fit_is_refused_with_numbers(engine: ChatEngine, model: VisionLanguageModel) -> None:
    turns = (*conversation(pairs=2), Turn("assistant", "ok"), Turn("user", "z" * 600, (picture(1),)))
    size = prompt_tokens(model, turns[-1:])
    with pytest.raises(ContextOverflow, match=rf"{size} tokens \(4 of them for images\).*at most 512"):
        next(engine.stream(turns, GREEDY))
    assert engine.stats().active == 0


def test_an_answer_gets_the_room_that_is_left_and_says_so(engine: ChatEngine, model: VisionLanguageModel) -> None:
    assert isinstance(model.language_model, ScriptedLlama)
    model.language_model.script = lambda _: 3 + ord("a")
    answer = last(engine.stream(ask("hi"), replace(GREEDY, max_new_tokens=10_000)))
    assert answer.finish_reason == "length"
    assert answer.num_prompt_tokens + answer.num_new_tokens == 512
    assert f"{answer.num_new_tokens} tokens instead of 10000" in answer.notices[0]


def test_a_generous_limit_does_not_cost_the_history(engine: ChatEngine) -> None:
    answer = last(engine.stream(conversation(pairs=2), replace(GREEDY, max_new_tokens=10_000)))
    assert answer.dropped_turns == 0
    assert answer.notices == ()  # it ended by itself: the limit changed nothing


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((Turn("user", "  "),), "question is empty"),
        ((Turn("user", "a"), Turn("assistant", "b")), "end with a question"),
        ((Turn("user", "a"), Turn("user", "b")), "alternate"),
        ((Turn("user", "a", (picture(1), picture(2))),), "takes at most 1"),
    ],
)
def test_conversations_that_make_no_sense_are_refused_at_once(
    engine: ChatEngine, turns: tuple[Turn, ...], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        engine.stream(turns, GREEDY)


def test_bad_settings_are_refused_at_once(engine: ChatEngine) -> None:
    with pytest.raises(RequestError, match="top_p"):
        engine.stream(ask("hi"), replace(GREEDY, top_p=2))


def test_a_model_that_needs_an_image_asks_for_one() -> None:
    with ChatEngine(tiny_model(answers_without_image=False)) as engine:
        with pytest.raises(RequestError, match="add one first"):
            engine.stream(ask("hi"), GREEDY)
        assert last(engine.stream(ask("hi", picture(1)), GREEDY)).finish_reason


def test_an_engine_that_was_not_started_says_so() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        ChatEngine(tiny_model()).stream(ask("hi"), GREEDY)
