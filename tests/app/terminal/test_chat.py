"""The terminal's chat: questions, commands and mistakes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.chat.pictures import open_picture
from app.chat.saved import read_chat
from app.extras.extended_model import ExtendedModel
from app.terminal.chat import Terminal
from engine import first_answer
from engine.chat_model import ChatModel, Stream
from models.conversation import Sampling, Turn
from models.errors import NotEnoughMemory
from models.extras import Extras
from tests.app.extras.scripted import OTHER, ScriptedGenerator, ScriptedReader
from tests.app.terminal.fake_models import FakeModels
from tests.fakes import INFO, ScriptedModel
from tests.tiny_model import picture


class Typed:
    """Lines that are typed one after the other; KeyboardInterrupt stands for Ctrl-C. After them comes Ctrl-D."""

    def __init__(self, *lines: str | type[KeyboardInterrupt]) -> None:
        self._left = list(lines)
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        if not self._left:
            raise EOFError
        line = self._left.pop(0)
        if isinstance(line, str):
            return line
        raise line


def shown(models: FakeModels | ChatModel, *lines: str | type[KeyboardInterrupt]) -> list[str]:
    """What the terminal shows for these lines, after its first."""
    out = io.StringIO()
    slot = models if isinstance(models, FakeModels) else FakeModels(models)
    Terminal(slot, read=Typed(*lines), out=out).run()
    return out.getvalue().rstrip("\n").splitlines()[1:]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a picture.png"
    picture(1).save(path)
    return path


def test_a_conversation_goes_on_until_a_new_one(image: Path) -> None:
    model = ScriptedModel(script=["one", "two", "three"])
    assert shown(model, f"/image {image}", "what?", "and?", "/new", "hello", "/quit", "never read") == [
        "one",
        "two",
        "three",
    ]
    assert [len(turns) for turns in model.seen] == [1, 3, 1]
    assert [len(turns[0].images) for turns in model.seen] == [1, 1, 0]


def test_a_new_image_begins_a_new_chat_with_models_that_know_one(image: Path) -> None:
    model = ScriptedModel(info=replace(INFO, one_image_per_chat=True))
    lines = shown(model, "hi", f"/image {image}", "what?", f"/image {image}", "and this?")
    assert lines[0] == ("error: This model was trained to talk about an image: add one first, with /image FILE.")
    assert lines[2] == "A new image begins a new chat."
    assert [len(turns) for turns in model.seen] == [1, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/image nowhere.png", "error: image nowhere.png can't be read (No such file or directory)."),
        ("/image", "error: Name a file: /image FILE"),
        ("/imgae x", "error: There is no command /imgae. Did you mean /image? /help lists all."),
        ("/task refre", "error: There is no task 'refre'. Did you mean refer? /task lists all."),
        ("/save", "error: There is nothing to save yet: ask something first."),
        ("/model x", "error: There is no configuration 'x'."),
        ("[refer] dog", "error: [refer] is about an image: add one first, with /image FILE."),
    ],
)
def test_a_mistake_is_one_line_and_the_chat_goes_on(line: str, message: str) -> None:
    lines = shown(ScriptedModel(default="well"), line, "hi")
    assert lines[0].startswith(message)
    assert "Choose it again" not in lines[0]  # that is for a page
    assert lines[1:] == ["well"]


def test_an_error_of_the_model_is_one_line_and_the_chat_goes_on() -> None:
    assert shown(ScriptedModel(script=[NotEnoughMemory("No room."), "fine"]), "hi", "again") == [
        "",
        "error: No room.",
        "fine",
    ]


def test_a_task_is_put_in_front_of_questions_until_another_is_chosen(image: Path) -> None:
    model = ScriptedModel()
    typed = Typed(
        f"/image {image}", "/task Grounding", "", "/task refer", "", "a cup", "[vqa] how many?", "/task chat", "hi"
    )
    Terminal(FakeModels(model), read=typed, out=io.StringIO()).run()
    assert [turns[-1].text for turns in model.seen] == [
        "[grounding] describe this image in detail",
        "[refer] a cup",
        "[vqa] how many?",
        "hi",
    ]
    assert typed.prompts[2:4] == ["[grounding] > ", "[grounding] > "]
    assert typed.prompts[-1] == "> "


def test_four_numbers_are_a_box(image: Path) -> None:
    model = ScriptedModel()
    lines = shown(model, f"/image {image}", "[identify] what is this", "[Identify] what is this 10 20 50 60")
    assert lines[0] == "error: [identify] needs a box: write its corners at the end, four numbers from 0 to 100."
    assert [turns[-1].text for turns in model.seen] == ["[identify] what is this {<10><20><50><60>}"]


def test_tasks_are_listed_with_what_they_are() -> None:
    assert shown(ScriptedModel(), "/task")[4] == "refer        Type a phrase for an object."
    assert shown(ScriptedModel(info=replace(INFO, tasks=())), "/task refer") == [
        "error: This model has no tasks; just ask."
    ]


def test_a_saved_chat_is_one_that_the_page_opens(image: Path, tmp_path: Path) -> None:
    model = ScriptedModel(default="<p>cup</p> {<1><2><3><4>}")
    path = tmp_path / "chat.json"
    lines = shown(model, f"/image {image}", "what?", f"/save {path}", f"/save {path}", f"/save {tmp_path}/gone/x.json")
    assert lines[1] == f"saved: {path}"
    assert lines[2] == f"error: {path} exists; choose another name."
    assert "gone/x.json can't be written (No such file" in lines[3]
    (exchange,) = read_chat(path.read_bytes(), model)
    assert (exchange.question, exchange.text) == ("what?", "<p>cup</p> {<1><2><3><4>}")
    assert exchange.pictures[0].image.size == (8, 8)


def test_another_model_goes_on_with_what_was_said_and_none_of_its_control_tokens() -> None:
    first = ScriptedModel(default="<s>[INST] hi")
    first.neutralise = lambda text: text  # type: ignore[method-assign]
    second = ScriptedModel(info=replace(INFO, name="Other", tasks=()))
    models = FakeModels(first, {"other": second})
    lines = shown(models, "/model", "one <s>", "/task refer", "/model other", "/model nothing", "two")
    assert lines[0] == INFO.name
    assert lines[3:5] == ["Other answers from here on.", "error: There is no configuration 'nothing'."]
    assert [turn.text for turn in second.seen[0]] == ["one < s>", "< s>[INST] hi", "two"]


def test_a_model_that_takes_fewer_images_begins_a_new_chat(image: Path) -> None:
    second = ScriptedModel(info=replace(INFO, max_images_per_turn=0))
    models = FakeModels(ScriptedModel(), {"other": second})
    lines = shown(models, f"/image {image}", "what?", "/model other", "two")
    assert lines[1:3] == [
        "A new chat begins, as this model takes fewer images at once.",
        f"{INFO.name} answers from here on.",
    ]
    assert len(second.seen[0]) == 1


def test_text_is_read_and_drawn_pictures_become_files(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inner = ScriptedModel(default="<h>a lake</h>", info=replace(INFO, extras=Extras(ocr=True, generate=True)))
    chat = ExtendedModel(inner, reader=ScriptedReader("EXIT 42"), generator=ScriptedGenerator())
    lines = shown(chat, f"/image {image}", "hi")
    assert lines == ["<h>a lake</h>", "note: Text read in the image: EXIT 42", "picture: drawn.png"]
    assert open_picture("drawn.png").image.size == OTHER.size


def test_ctrl_c_at_the_prompt_empties_the_line() -> None:
    assert shown(ScriptedModel(default="fine"), KeyboardInterrupt, "hi") == ["", "fine"]


class Timed(ScriptedModel):
    """The first answer says how fast it was, as the engine does, before its last words."""

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
        if not self.seen:
            first_answer.logger.info("First answer: the picture took %s s.", 2.5)
        return super().stream(turns, sampling)


def test_behind_the_first_answer_is_how_fast_it_was() -> None:
    before = first_answer.logger.level, list(first_answer.logger.handlers)
    answers = shown(Timed(script=["one", "two"]), "what?", "and?")
    assert answers == ["one", "note: First answer: the picture took 2.5 s.", "two"]
    assert (first_answer.logger.level, list(first_answer.logger.handlers)) == before
