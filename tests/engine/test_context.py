"""Conversations that do not fit, or make no sense: what the engine leaves out, refuses, and says about it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from engine.chat_engine import ChatEngine
from engine.context import drop_oldest, fit_prompt
from engine.generate import generate
from models.conversation import Role, Turn
from models.errors import ContextOverflow, RequestError
from models.vision_language_model import VisionLanguageModel
from tests.engine.helpers import last
from tests.tiny_model import GREEDY, ScriptedLlama, ask, picture, prompt_tokens, tiny_model

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def engine(model: VisionLanguageModel) -> Iterator[ChatEngine]:
    with ChatEngine(model, page_size=8, max_batch_tokens=64, update_interval=0) as engine:
        yield engine


def conversation(*, pairs: int, first_image: int | None = None) -> tuple[Turn, ...]:
    images = () if first_image is None else (picture(first_image),)
    turns = [Turn("user", "q0 " + "x" * 40, images), Turn("assistant", "a0 " + "y" * 40)]
    for i in range(1, pairs):
        turns += [Turn("user", f"q{i} " + "x" * 40), Turn("assistant", f"a{i} " + "y" * 40)]
    return (*turns, Turn("user", "and now?"))


def test_whole_oldest_turns_are_left_out_visibly(engine: ChatEngine, model: VisionLanguageModel) -> None:
    turns = conversation(pairs=8)
    answer = last(engine, turns, GREEDY)
    assert answer.dropped_turns > 0
    assert answer.dropped_turns % 2 == 0
    (notice,) = answer.notices
    assert f"longer than the model's context: its first {answer.dropped_turns} messages were left out." in notice
    kept = turns[answer.dropped_turns :]
    assert answer.text == generate(model, [kept], GREEDY)[0].text
    assert answer.num_prompt_tokens + 24 <= 512 < prompt_tokens(model, turns[answer.dropped_turns - 2 :]) + 24


def test_the_only_image_survives_its_turn(engine: ChatEngine, model: VisionLanguageModel) -> None:
    turns = conversation(pairs=8, first_image=1)
    answer = last(engine, turns, GREEDY)
    kept = list(turns[answer.dropped_turns :])
    kept[0] = replace(kept[0], images=(picture(1),))
    assert answer.text == generate(model, [kept], GREEDY)[0].text
    assert "but not the image" in answer.notices[0]


def test_a_newer_image_lets_the_old_one_go(engine: ChatEngine, model: VisionLanguageModel) -> None:
    turns = [*conversation(pairs=8, first_image=1)]
    turns[-1] = replace(turns[-1], images=(picture(2),))
    answer = last(engine, turns, GREEDY)
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
    answer = last(engine, ask("hi"), replace(GREEDY, max_new_tokens=10_000))
    assert answer.finish_reason == "length"
    assert answer.num_prompt_tokens + answer.num_new_tokens == 512
    assert f"{answer.num_new_tokens} tokens instead of 10000" in answer.notices[0]


def test_of_several_images_left_out_the_last_is_kept() -> None:
    images = [picture(seed) for seed in range(3)]
    turns = [Turn("user", "a", (images[0],)), Turn("assistant", "b"), Turn("user", "c", (images[1], images[2])),
             Turn("assistant", "d"), Turn("user", "e")]  # fmt: skip
    kept, notice = drop_oldest(turns, 4)
    assert kept == [replace(turns[4], images=(images[1], images[2]))]
    assert notice == (
        "The conversation is longer than the model's context: its first 4 messages were left out, but not the image."
    )


@pytest.mark.parametrize("room", [0, 1])
def test_a_question_needs_room_for_one_token_of_its_answer(model: VisionLanguageModel, room: int) -> None:
    size = prompt_tokens(model, ask(""))
    question = ask("x" * (model.info.context_tokens - size - room))
    if room:
        assert fit_prompt(model, question, 24).max_new_tokens == 1
    else:
        with pytest.raises(ContextOverflow, match=r"takes 512 tokens .* at most 512 with its answer"):
            fit_prompt(model, question, 24)


def test_an_answer_as_long_as_its_limit_is_not_cut(model: VisionLanguageModel) -> None:
    room = model.info.context_tokens - prompt_tokens(model, ask("hi"))
    assert fit_prompt(model, ask("hi"), room).length_notice is None
    notice = fit_prompt(model, ask("hi"), room + 1).length_notice
    assert notice is not None
    assert notice.startswith(f"The answer was cut at {room} tokens instead of {room + 1}:")


def first_that_fits(model: VisionLanguageModel, turns: Sequence[Turn], max_new_tokens: int) -> int | None:
    """How many turns to leave out, tried one pair after the other; None if even the last question is too long."""
    context = model.info.context_tokens
    reserved = min(max_new_tokens, context // 2)
    sizes = []
    for dropped in range(0, len(turns), 2):
        parts = model.tokenize(model.prompt_format.render(drop_oldest(turns, dropped)[0]))
        sizes.append(model.count_tokens(parts))
        if sizes[-1] + reserved <= context:
            return dropped
    return len(turns) - 1 if sizes[-1] < context else None


@pytest.mark.parametrize("seed", range(60))
def test_the_search_by_halves_finds_what_one_pair_after_the_other_finds(model: VisionLanguageModel, seed: int) -> None:
    draw = random.Random(seed)

    def turn(role: Role) -> Turn:
        images = (picture(1),) if role == "user" and draw.random() < 0.2 else ()
        return Turn(role, "x" * draw.choice((1, 5, 40, 200)), images)

    turns = [turn("assistant" if index % 2 else "user") for index in range(2 * draw.randrange(20) + 1)]
    turns[-1] = replace(turns[-1], text="x" * draw.choice((1, 40, 300, 450, 500)))
    max_new_tokens = draw.choice((1, 24, 1000))
    expected = first_that_fits(model, turns, max_new_tokens)
    if expected is None:
        with pytest.raises(ContextOverflow):
            fit_prompt(model, turns, max_new_tokens)
        return
    prompt = fit_prompt(model, turns, max_new_tokens)
    kept, notice = drop_oldest(turns, expected)
    assert (prompt.dropped_turns, prompt.notices) == (expected, (notice,) if notice else ())
    assert prompt.parts == model.tokenize(model.prompt_format.render(kept))


def test_a_long_history_is_read_a_few_times_and_not_once_per_pair(model: VisionLanguageModel) -> None:
    turns = conversation(pairs=500)
    read: list[str] = []
    encode = model.tokenizer.encode
    model.tokenizer.encode = lambda text, **bos: read.append(text) or encode(text, **bos)  # type: ignore[method-assign, func-returns-value]
    fit_prompt(model, turns, 24)
    assert sum(map(len, read)) < 4 * sum(len(turn.text) + 20 for turn in turns)


def test_a_generous_limit_does_not_cost_the_history(engine: ChatEngine) -> None:
    answer = last(engine, conversation(pairs=2), replace(GREEDY, max_new_tokens=10_000))
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
        assert last(engine, ask("hi", picture(1)), GREEDY).finish_reason


def test_an_engine_that_was_not_started_says_so() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        ChatEngine(tiny_model()).stream(ask("hi"), GREEDY)
