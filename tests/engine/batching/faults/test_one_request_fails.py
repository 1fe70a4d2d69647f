"""What goes wrong with one request ends that one, with its reason, and leaves the others and the loop alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.batching import request_sampler
from engine.batching.contiguous_cache import ContiguousCache
from engine.batching.request_sampler import RequestSampler
from engine.chat_engine import ChatEngine
from engine.generating_model import GeneratingModel
from models.conversation import Answer, Sampling, Turn
from models.errors import NotFinite
from models.vision_language_model import VisionLanguageModel
from tests.engine.batching.faults.one_broken import check_that_the_others_go_on, sliding_model
from tests.engine.helpers import assert_idle, end_of, last, start
from tests.tiny_model import GREEDY, ask, picture, tiny_model

VICTIM = 666  # the seed of the question that things go wrong with
DRAWN = replace(GREEDY, temperature=0.8, repetition_penalty=1.1)
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def engine(model: VisionLanguageModel) -> Iterator[ChatEngine]:
    with start(model) as engine:
        yield engine


def settings(place: int) -> Sampling:
    return replace(DRAWN, seed=VICTIM if place == 1 else place)


def all_at_once(engine: ChatEngine) -> list[Answer | Exception]:
    """The answers to three questions that are asked together, or why there is none; the second is the victim's."""
    streams = [engine.stream(ask(f"question {place}"), settings(place)) for place in range(3)]
    firsts = [next(stream, None) for stream in streams[:1]]  # so that one is under way
    del firsts
    found: list[Answer | Exception] = []
    for stream in streams:
        try:
            found.append(end_of(stream))
        except Exception as error:
            found.append(error)
    return found


def without_times(answers: Sequence[Answer | Exception]) -> list[Any]:
    return [replace(one, seconds=0.0) if isinstance(one, Answer) else one for one in answers]


def put_number_in_row(monkeypatch: pytest.MonkeyPatch, number: float) -> None:
    """The victim's logits hold this number once."""
    choose = RequestSampler.__call__

    def broken(self: RequestSampler, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        for row, sampling in enumerate(self._in_batch):
            if sampling.seed == VICTIM:
                scores[row, 5] = number
        return choose(self, scores, tensor_arg)

    monkeypatch.setattr(RequestSampler, "__call__", broken)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_none(engine: ChatEngine, number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = without_times(all_at_once(engine))
    with monkeypatch.context() as patched:
        put_number_in_row(patched, number)
        first, victim, third = without_times(all_at_once(engine))
    assert (first, third) == (right[0], right[2])
    assert isinstance(victim, NotFinite)
    assert "--dtype" in str(victim)
    assert_idle(engine)
    assert without_times(all_at_once(engine)) == right
    assert engine.stats().restarts == 0


@pytest.mark.parametrize("make", [tiny_model, sliding_model])
@pytest.mark.parametrize(("number", "in_answer"), [(math.nan, False), (math.inf, False), (math.nan, True)])
def test_keys_and_values_that_are_none_stay_with_their_request(
    make: Callable[[], VisionLanguageModel], number: float, in_answer: bool
) -> None:
    """In most steps they lie beside the others', which a mask hides; but 0 times NaN is NaN."""
    check_that_the_others_go_on(make(), number, in_answer=in_answer)


def test_keys_that_are_none_but_gave_a_token_end_it_later(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As -infinity does where it only takes away a token's weight: seen when they are copied to the pages."""
    right = last(engine, ask("question"))
    reused = engine.stats().prompt_tokens_reused
    with monkeypatch.context() as patched:
        patched.setattr(ContiguousCache, "store", lambda *_, **__: False)
        with pytest.raises(NotFinite):
            last(engine, ask("another one"))
    assert without_times([last(engine, ask("question"))]) == without_times([right])
    assert engine.stats().prompt_tokens_reused > reused
    assert_idle(engine)


def test_what_was_computed_then_is_not_used_again(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    right = last(engine, ask("question"), settings(1))
    with monkeypatch.context() as patched:
        put_number_in_row(patched, math.nan)
        with pytest.raises(NotFinite):
            last(engine, ask("question"), settings(1))
    before = engine.stats()
    assert before.prompt_tokens_reused > 0
    again = last(engine, ask("question"), settings(1))
    assert engine.stats().prompt_tokens_reused == before.prompt_tokens_reused
    assert without_times([again]) == without_times([right])


def test_a_row_that_can_not_be_sampled(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    right = without_times(all_at_once(engine))
    uniform = request_sampler.uniform

    def broken(seed: int, step: int) -> float:
        if seed == VICTIM and step == 3:
            raise ZeroDivisionError("no number")
        return uniform(seed, step)

    with monkeypatch.context() as patched:
        patched.setattr(request_sampler, "uniform", broken)
        first, victim, third = without_times(all_at_once(engine))
    assert (first, third) == (right[0], right[2])
    assert isinstance(victim, ZeroDivisionError)
    assert_idle(engine)
    assert without_times(all_at_once(engine)) == right
    assert engine.stats().restarts == 0


def test_a_stop_check_that_raises(engine: ChatEngine, model: VisionLanguageModel) -> None:
    """As a tokenizer does that has no piece for an id."""
    right = without_times(all_at_once(engine))
    victims = [answer for answer in right[1:2] if isinstance(answer, Answer)]
    mailboxes = engine._loop._mailboxes
    stops = engine._loop._stops
    assert stops is not None
    seen: list[int] = []

    def broken(ids: Sequence[int]) -> bool:
        own = next((box for box in mailboxes.values() if box._output and box._output.generated_tokens is ids), None)
        number = next((int(name.removeprefix("chat-")) for name, box in mailboxes.items() if box is own), 0)
        seen.append(number)
        if number % 3 == 2 and len(ids) == 4:
            raise IndexError("piece id is out of range")
        return stops(ids)

    engine._loop._stops = broken
    first, victim, third = without_times(all_at_once(engine))
    engine._loop._stops = stops
    assert victims
    assert (first, third) == (right[0], right[2])
    assert isinstance(victim, IndexError)
    assert_idle(engine)
    assert without_times(all_at_once(engine)) == right
    assert engine.stats().restarts == 0


def test_an_image_without_numbers_is_not_kept(engine: ChatEngine, model: VisionLanguageModel) -> None:
    """Nor answered with nothing from then on."""
    right = last(engine, ask("what?", picture(1)))
    embeds = model.image_embeds
    model.image_embeds = lambda pixel_values: embeds(pixel_values) * math.nan  # type: ignore[method-assign]
    with pytest.raises(NotFinite, match="vision tower computed NaN"):
        last(engine, ask("what?", picture(2)))
    model.image_embeds = embeds  # type: ignore[method-assign]
    assert engine.stats().images_held == 1
    assert last(engine, ask("what?", picture(1))).text == right.text
    assert last(engine, ask("what?", picture(2))).text
    assert_idle(engine)


def test_of_images_encoded_together_one_fails_alone(model: VisionLanguageModel) -> None:
    from engine.image_encoder import ImageEncoder, _Job

    embeds = model.image_embeds

    def broken(pixel_values: Tensor) -> Tensor:
        if (pixel_values == 7).any():
            raise ValueError("this one")
        return embeds(pixel_values)

    model.image_embeds = broken  # type: ignore[method-assign]
    jobs = [_Job(model.pixel_values([picture(n)])) for n in range(3)]
    jobs[1].pixels = torch.full_like(jobs[1].pixels, 7)
    ImageEncoder(model, at_once=3)._run(jobs)
    assert [job.error is None for job in jobs] == [True, False, True]
    assert jobs[2].features is not None
    torch.testing.assert_close(jobs[2].features, embeds(jobs[2].pixels)[0])


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_generate_says_it_too(model: VisionLanguageModel, temperature: float) -> None:
    torch.nn.init.constant_(model.language_model.get_output_embeddings().weight, math.nan)
    chat = GeneratingModel(model)
    with pytest.raises(NotFinite, match="--dtype"):
        list(chat.stream([Turn("user", "hello")], replace(GREEDY, temperature=temperature)))
