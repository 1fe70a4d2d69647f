"""The engine gives the answers that `generate` gives, to many chats at once, and streams them cleanly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from engine.chat_engine import ChatEngine
from engine.chat_model import ChatModel
from engine.generate import generate
from models.conversation import Sampling, Turn
from models.prompt import PromptFormat
from models.vision_language_model import VisionLanguageModel
from tests.engine.helpers import last, start, together
from tests.tiny_model import EOS, FIRST_BYTE, GREEDY, ask, picture, prompt_tokens, say, tiny_model

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def engine(model: VisionLanguageModel) -> Iterator[ChatEngine]:
    with start(model) as engine:
        yield engine


def test_it_is_a_chat_model(engine: ChatEngine, model: VisionLanguageModel) -> None:
    served: ChatModel = engine
    assert served.info is model.info
    assert served.neutralise("<s>") == model.prompt_format.neutralise("<s>")


@pytest.mark.parametrize("penalty", [1.0, 1.05, 1.5])
def test_greedy_answers_equal_those_of_generate(engine: ChatEngine, model: VisionLanguageModel, penalty: float) -> None:
    sampling = replace(GREEDY, repetition_penalty=penalty, max_new_tokens=40)
    for chat in (ask("What is it?", picture(1)), ask("no image")):
        expected = generate(model, [chat], sampling)[0]
        answer = last(engine, chat, sampling)
        assert (answer.text, answer.num_new_tokens) == (expected.text, len(expected.ids))
        assert answer.finish_reason == ("stop" if expected.ids[-1] == EOS else "length")
        assert answer.num_prompt_tokens == prompt_tokens(model, chat)


def test_answers_say_how_much_of_the_prompt_was_there(engine: ChatEngine, model: VisionLanguageModel) -> None:
    chat = ask("What is it? Look closely, please.", picture(1))
    first = last(engine, chat)
    assert (first.num_image_tokens, first.num_cached_tokens) == (model.num_image_tokens, 0)
    before = engine.stats().prompt_tokens_reused
    again = last(engine, (*chat, Turn("assistant", "A thing."), Turn("user", "Sure?")))
    assert again.num_cached_tokens == engine.stats().prompt_tokens_reused - before
    assert model.num_image_tokens < again.num_cached_tokens < again.num_prompt_tokens
    assert last(engine, ask("Something else")).num_image_tokens == 0


def test_the_picture_matters(engine: ChatEngine) -> None:
    texts = {last(engine, ask("What is it?", picture(seed))).text for seed in range(4)}
    assert len(texts) == 4


def test_many_ragged_chats_at_once_get_the_answers_they_get_alone(
    engine: ChatEngine, model: VisionLanguageModel
) -> None:
    chats = [ask("Tell me more. " * (1 + 3 * (i % 4)), picture(i)) for i in range(12)]
    samplings = [replace(GREEDY, max_new_tokens=10 + 5 * i, repetition_penalty=1 + 0.1 * (i % 3)) for i in range(12)]
    expected = [generate(model, [chat], sampling)[0].text for chat, sampling in zip(chats, samplings, strict=True)]
    assert [answer.text for answer in together(engine, chats, samplings)] == expected


def test_a_second_turn_reuses_the_first_and_changes_nothing(engine: ChatEngine, model: VisionLanguageModel) -> None:
    chat: tuple[Turn, ...] = ask("Tell me about this picture, please.", picture(1))
    for turn in range(3):
        reused = engine.stats().prompt_tokens_reused
        answer = last(engine, chat)
        assert answer.text == generate(model, [chat], GREEDY)[0].text
        newly_reused = engine.stats().prompt_tokens_reused - reused
        assert newly_reused > 30 if turn else newly_reused == 0
        chat = (*chat, Turn("assistant", "I see."), Turn("user", "And what else?"))
    assert engine.stats().images_encoded == 1


def test_two_chats_share_an_equal_picture(engine: ChatEngine, model: VisionLanguageModel) -> None:
    together(engine, [ask(f"question {i}", picture(5)) for i in range(4)], [GREEDY] * 4)
    stats = engine.stats()
    assert (stats.images_encoded, stats.images_reused, stats.images_held) == (1, 3, 1)


def test_a_long_prompt_is_read_in_steps(engine: ChatEngine, model: VisionLanguageModel) -> None:
    chat = ask("word " * 60, picture(2))  # five times max_batch_tokens
    assert last(engine, chat).text == generate(model, [chat], GREEDY)[0].text


def test_seeds_make_answers_repeatable_alone_and_in_company(engine: ChatEngine) -> None:
    chats = [ask("Go on", picture(i)) for i in range(4)]
    samplings = [Sampling(temperature=1.0, top_p=0.9, seed=i, max_new_tokens=30) for i in range(4)]
    alone = [last(engine, chat, sampling).text for chat, sampling in zip(chats, samplings, strict=True)]
    assert [answer.text for answer in together(engine, chats, samplings)] == alone
    assert last(engine, chats[0], replace(samplings[0], seed=77)).text != alone[0]


def test_without_a_seed_answers_vary(engine: ChatEngine) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=20)
    assert len({last(engine, ask("Go on"), sampling).text for _ in range(4)}) > 1


def test_partial_answers_grow_and_only_the_last_is_finished(engine: ChatEngine, model: VisionLanguageModel) -> None:
    chat = ask("Say something")
    say(model, prompt_tokens(model, chat), "A red car — 漢字 🚗, and more.")
    answers = list(engine.stream(chat, replace(GREEDY, max_new_tokens=100)))
    texts = [answer.text for answer in answers]
    assert texts[-1] == "A red car — 漢字 🚗, and more."
    assert len(texts) > 5
    assert all(texts[-1].startswith(text) for text in texts)
    assert all(len(before) < len(after) for before, after in pairwise(texts[:-1]))
    assert [answer.finish_reason for answer in answers] == [None] * (len(answers) - 1) + ["stop"]


def test_a_stop_string_ends_the_answer_and_never_shows(engine: ChatEngine, model: VisionLanguageModel) -> None:
    chat = ask("Say something")
    say(model, prompt_tokens(model, chat), "No # sign, ## or so.###Human: and now?" + "x" * 100)
    answers = list(engine.stream(chat, replace(GREEDY, max_new_tokens=200)))
    assert answers[-1].text == "No # sign, ## or so."
    assert answers[-1].finish_reason == "stop"
    assert answers[-1].num_new_tokens == len("No # sign, ## or so.###")
    assert not any("###" in answer.text or answer.text.endswith("#") for answer in answers)


def test_a_cut_off_answer_says_so(engine: ChatEngine, model: VisionLanguageModel) -> None:
    chat = ask("Say something")
    say(model, prompt_tokens(model, chat), "0123456789")
    answer = last(engine, chat, replace(GREEDY, max_new_tokens=4))
    assert (answer.text, answer.finish_reason, answer.num_new_tokens) == ("0123", "length", 4)


def test_an_answer_that_ends_in_half_a_character_is_shown_as_the_reference_does(
    engine: ChatEngine, model: VisionLanguageModel
) -> None:
    chat = ask("Say something")
    say(model, prompt_tokens(model, chat), "n€".encode()[:-1])
    answer = last(engine, chat)
    assert answer.text == model.prompt_format.finish(model.tokenizer.decode([FIRST_BYTE + b for b in b"n\xe2\x82"]))


def test_updates_are_no_more_frequent_than_asked(model: VisionLanguageModel) -> None:
    chat = ask("Say something")
    say(model, prompt_tokens(model, chat), "a" * 200)
    with ChatEngine(model, update_interval=30) as engine:
        answers = list(engine.stream(chat, replace(GREEDY, max_new_tokens=300)))
    assert len(answers) <= 2  # the first at once, then the end, which waits for nothing
    assert answers[-1].text == "a" * 200


def test_the_role_name_is_cut_as_the_family_asks() -> None:
    prompt_format = PromptFormat(
        user_prefix="Human: ", assistant_prefix="Assistant: ", answer_starts_after="Assistant:"
    )
    model = tiny_model(prompt_format=prompt_format)
    chat = ask("Say something")
    say(model, prompt_tokens(model, chat), "Assistant: a car")
    with ChatEngine(model) as engine:
        assert last(engine, chat).text == "a car"


def test_plain_generate_still_works_beside_the_engine(engine: ChatEngine, model: VisionLanguageModel) -> None:
    """transformers' loop writes to the model's config while it runs, unless it is kept from that."""
    chat, long = ask("What is it?", picture(1)), replace(GREEDY, max_new_tokens=400)
    expected = generate(model, [chat], GREEDY)[0].text
    with engine.stream(chat, long) as stream:
        next(stream)
        assert [generate(model, [chat], GREEDY)[0].text for _ in range(3)] == [expected] * 3
        assert last(engine, chat).text == expected


def test_after_closing_the_model_is_as_before(model: VisionLanguageModel) -> None:
    embedding = model.language_model.get_input_embeddings()
    names = list(model.state_dict())
    with ChatEngine(model) as engine:
        last(engine, ask("hi"))
    assert model.language_model.get_input_embeddings() is embedding
    assert list(model.state_dict()) == names
