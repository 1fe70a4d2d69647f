"""The conversation: what the model sees, and that nothing is lost when something stops or fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.chat.exchange import Exchange, WantedExtras
from app.chat.session import ChatSession, StillAnswering
from models.conversation import Sampling
from models.errors import ContextOverflow, RequestError
from models.grounding import Box
from tests.app.helpers import picture
from tests.fakes import INFO, ScriptedModel
from tests.waiting import eventually


def finish(updates: Iterator[Exchange]) -> Exchange:
    return list(updates)[-1]


def texts(model: ScriptedModel) -> list[tuple[str, str]]:
    """What the model saw at its last request."""
    return [(turn.role, turn.text) for turn in model.seen[-1]]


def test_the_second_turn_sees_the_first() -> None:
    session, model = ChatSession(), ScriptedModel(["a dog", "brown"])
    red = picture()
    finish(session.ask(model, " what is it? ", [red]))
    exchange = finish(session.ask(model, "which colour?"))
    assert exchange.text == "brown"
    assert texts(model) == [("user", "what is it?"), ("assistant", "a dog"), ("user", "which colour?")]
    assert [turn.images for turn in model.seen[-1]] == [(red.image,), (), ()]


def test_the_phrase_that_was_asked_for_stays_with_its_answer() -> None:
    session, model = ChatSession(), ScriptedModel()
    assert finish(session.ask(model, "[refer] where is the dog?", [picture()])).phrase == "the dog"
    assert finish(session.retry(model)).phrase == "the dog"
    assert finish(session.ask(model, "what is it?")).phrase == ""


def test_answers_grow_and_end() -> None:
    session, model = ChatSession(), ScriptedModel(["one two three"], delay=0.06)
    seen = [(e.text, e.is_running) for e in session.ask(model, "count")]
    assert seen[0] == ("", True)
    assert seen[-1] == ("one two three", False)
    assert len({text for text, _ in seen}) > 2
    assert not session.is_answering


def test_a_new_image_keeps_the_history() -> None:
    session, model = ChatSession(), ScriptedModel()
    first, second = picture("red"), picture("blue")
    finish(session.ask(model, "one", [first]))
    finish(session.ask(model, "two", [second]))
    assert [turn.images for turn in model.seen[-1]] == [(first.image,), (), (second.image,)]
    assert session.picture_of(1) is second
    assert session.picture_of(0) is first


def test_of_several_images_the_last_is_the_one_asked_about() -> None:
    session, model = ChatSession(), ScriptedModel(info=replace(INFO, max_images_per_turn=2))
    first, second = picture("red"), picture("blue")
    finish(session.ask(model, "one", [first, second]))
    finish(session.ask(model, "two"))
    assert session.picture_of(0) is session.picture_of(1) is second


def test_a_new_image_begins_anew_for_models_of_one_image() -> None:
    session, model = ChatSession(), ScriptedModel(info=replace(INFO, one_image_per_chat=True))
    for text, *images in (
        ("one", picture("green")),
        ("two", picture("red")),
        ("three",),
        ("four", picture("blue")),
        ("five",),
    ):
        finish(session.ask(model, text, images))
    assert [turn.text for turn in model.seen[-1]] == ["four", model.default, "five"]
    assert [exchange.begins_anew for exchange in session.exchanges] == [False, True, False, True, False]
    session.undo()
    finish(session.retry(model))
    assert texts(model) == [("user", "four")]
    session.undo()
    finish(session.ask(model, "which colour?"))
    assert [turn.text for turn in model.seen[-1]] == ["two", model.default, "three", model.default, "which colour?"]


def test_refused_questions_change_nothing() -> None:
    session, model = ChatSession(), ScriptedModel()
    finish(session.ask(model, "one", [picture()]))
    for text in ("", "[refer]", "[identify] what"):
        with pytest.raises(RequestError):
            session.ask(model, text)
    assert len(session.exchanges) == 1
    assert len(model.seen) == 1


def test_control_tokens_are_broken_once() -> None:
    session, model = ChatSession(), ScriptedModel()
    finish(session.ask(model, "a </s> b"))
    finish(session.ask(model, "again"))
    assert texts(model)[0] == ("user", "a < /s> b")


def test_the_drawn_box_goes_into_the_question() -> None:
    session, model = ChatSession(), ScriptedModel()
    finish(session.ask(model, "[identify] what is this ", [picture()], box=Box(0.1, 0.2, 0.3, 0.4)))
    assert model.last_question() == "[identify] what is this {<10><20><30><40>}"


def test_stop_keeps_the_partial_answer_and_the_next_turn_sees_it() -> None:
    session, model = ChatSession(), ScriptedModel(["one two three four", "next"], gate=threading.Semaphore(2))
    updates = session.ask(model, "count")
    for exchange in updates:
        if exchange.text == "one two":  # the gate lets no more through
            break
    assert model.open_streams == 1
    session.stop()
    exchange = finish(updates)  # returns although the model still blocks
    assert exchange.answer is not None
    assert exchange.answer.finish_reason == "cancelled"
    assert exchange.text == "one two"
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)
    assert model.closed_early == 1
    finish(session.ask(model, "go on"))
    assert texts(model) == [("user", "count"), ("assistant", "one two"), ("user", "go on")]


def test_a_question_that_got_no_answer_is_left_out_but_its_image_is_not() -> None:
    session, model = ChatSession(), ScriptedModel([ContextOverflow("Too long. Ask for less."), "fine"])
    red = picture()
    exchange = finish(session.ask(model, "long", [red]))
    assert (exchange.error, exchange.text) == ("Too long. Ask for less.", "")
    assert not exchange.is_running
    assert exchange.answer is not None
    assert exchange.answer.finish_reason is None  # it was not stopped: it failed
    finish(session.ask(model, "short"))
    assert texts(model) == [("user", "short")]
    assert model.seen[-1][0].images == (red.image,)
    assert [exchange.question for exchange in session.exchanges] == ["long", "short"]


def test_an_image_waits_for_the_first_question_that_is_answered_and_is_shown_once() -> None:
    session, model = ChatSession(), ScriptedModel([ContextOverflow("No."), ContextOverflow("No."), "fine", "fine"])
    red = picture()
    finish(session.ask(model, "long", [red]))
    for text in ("as long", "short", "another"):
        finish(session.ask(model, text))
    assert [(turn.text, turn.images) for turn in model.seen[-1]] == [
        ("short", (red.image,)),
        ("fine", ()),
        ("another", ()),
    ]


def test_closing_the_updates_frees_the_model() -> None:
    """As gradio does when a tab is closed."""
    session, model = ChatSession(), ScriptedModel(["one two three"], gate=threading.Semaphore(1))
    updates = session.ask(model, "count")
    next(updates)
    updates.close()  # type: ignore[attr-defined]
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)
    assert not session.is_answering
    assert not session.exchanges[0].is_running


def test_a_bug_is_one_line_with_a_number_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    session, model = ChatSession(), ScriptedModel([KeyError("secret path")])
    exchange = finish(session.ask(model, "hello"))
    assert "secret" not in exchange.error
    assert "\n" not in exchange.error
    number = exchange.error.rstrip(".").rsplit(" ", 1)[-1]
    assert number in caplog.text
    assert "KeyError" in caplog.text


def test_only_one_answer_at_a_time() -> None:
    session, model = ChatSession(), ScriptedModel(gate=threading.Semaphore(0))
    session.ask(model, "one")
    for call in (lambda: session.ask(model, "two"), lambda: session.retry(model), session.check_free):
        with pytest.raises(RequestError, match="still being written"):
            call()
    session.reset()
    assert not session.is_answering
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)


def test_undo_ends_a_running_answer() -> None:
    session, model = ChatSession(), ScriptedModel(gate=threading.Semaphore(0))
    session.ask(model, "one")
    session.undo()
    assert not session.is_answering
    model.open_gate()
    assert eventually(lambda: model.open_streams == 0)


@pytest.mark.parametrize("again", [False, True])
def test_of_two_questions_sent_at_once_one_is_refused(again: bool) -> None:
    session, model = ChatSession(), ScriptedModel()
    finish(session.ask(model, "one"))
    model.gate = threading.Semaphore(0)
    both = threading.Barrier(2)
    accepted: list[Iterator[Exchange]] = []
    refused: list[StillAnswering] = []

    def send() -> None:
        both.wait()
        try:
            accepted.append(session.retry(model) if again else session.ask(model, "two"))
        except StillAnswering as error:
            refused.append(error)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.stop()
    model.open_gate()
    assert (len(accepted), len(refused)) == (1, 1)
    assert len(session.exchanges) == (1 if again else 2)


def test_retry_asks_the_same_again() -> None:
    session, model = ChatSession(), ScriptedModel(["one", "two"])
    finish(session.ask(model, "say", [picture()]))
    exchange = finish(session.retry(model, replace(INFO.sampling, seed=7)))
    assert exchange.text == "two"
    assert model.seen[0] == model.seen[1]
    assert model.samplings[1].seed == 7
    assert len(session.exchanges) == 1


def test_a_failed_retry_brings_the_old_answer_back_with_what_it_was_asked_by() -> None:
    session, model = ChatSession(), ScriptedModel(["one", ContextOverflow("No.")])
    old = finish(session.ask(model, "say"))
    exchange = finish(session.retry(model, Sampling(seed=7), extras=WantedExtras(reads_text=True)))
    assert (exchange.text, exchange.error) == ("one", "No.")
    assert (exchange.sampling, exchange.extras) == (old.sampling, WantedExtras())
    assert session.exchanges == [exchange]


def test_a_failed_retry_of_what_failed_before_says_how_it_failed_now() -> None:
    session, model = ChatSession(), ScriptedModel([ContextOverflow("No."), ContextOverflow("Still no.")])
    finish(session.ask(model, "say"))
    exchange = finish(session.retry(model, Sampling(seed=7)))
    assert (exchange.text, exchange.error, exchange.sampling.seed) == ("", "Still no.", 7)


def test_undo_takes_the_last_question_back() -> None:
    session, model = ChatSession(), ScriptedModel()
    finish(session.ask(model, "one"))
    finish(session.ask(model, "two"))
    undone = session.undo()
    assert undone is not None
    assert undone.question == "two"
    finish(session.ask(model, "three"))
    assert [text for role, text in texts(model) if role == "user"] == ["one", "three"]
    session.reset()
    assert session.undo() is None


def test_a_question_replaces_another_and_all_after_it_once_it_is_accepted() -> None:
    session, model = ChatSession(), ScriptedModel()
    red = picture()
    for text, pictures in (("one", [red]), ("two", []), ("three", [])):
        finish(session.ask(model, text, pictures))
    for text, index in (("", 1), ("other", 3), ("other", -1)):
        with pytest.raises(RequestError):
            session.ask(model, text, replacing=index)
    assert len(session.exchanges) == 3
    finish(session.ask(model, "[refer] other", replacing=1))  # about the image of the first
    assert [exchange.question for exchange in session.exchanges] == ["one", "[refer] other"]
    with pytest.raises(RequestError, match="add one first"):  # what is replaced takes its image along
        session.ask(model, "[refer] other", replacing=0)


def test_what_replaces_the_first_question_begins_nothing_anew() -> None:
    session, model = ChatSession(), ScriptedModel(info=replace(INFO, one_image_per_chat=True))
    for text in ("one", "two"):
        finish(session.ask(model, text, [picture()]))
    finish(session.ask(model, "other", [picture()], replacing=0))
    assert [exchange.begins_anew for exchange in session.exchanges] == [False]


def test_every_answer_has_a_seed_to_repeat_it() -> None:
    session, model = ChatSession(), ScriptedModel()
    first, second = (finish(session.ask(model, "hi", sampling=Sampling())).sampling.seed for _ in range(2))
    assert first is not None
    assert first != second
    assert finish(session.ask(model, "hi", sampling=Sampling(seed=3))).sampling.seed == 3
