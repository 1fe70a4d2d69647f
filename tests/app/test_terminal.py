"""Answers without the page: the terminal's commands, beams, prompt lookup, and files of questions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

import demo
from app import terminal
from app.aids import AidedModel
from app.terminal import AnswerPrinter, GeneratingModel, Terminal, answer_file, save_picture
from models.aids import Aids
from models.conversation import Turn
from models.errors import ImageError, RequestError
from models.generation import generate
from models.vision_language_model import VisionLanguageModel
from tests.app.test_aids import OTHER, ScriptedGenerator, ScriptedReader
from tests.app.tiny_model import GREEDY, ask, picture, prompt_tokens, quick_process, say, tiny_model
from tests.fakes import TASKS


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with quick_process():
        yield


@pytest.fixture
def model() -> VisionLanguageModel:
    return tiny_model(sampling=GREEDY)


def chat(model: VisionLanguageModel, *lines: str, **options: int) -> str:
    """What the terminal shows for these lines, the last of which is the end of the input."""
    left = list(lines)

    def read(_: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    out = io.StringIO()
    Terminal(model, read=read, out=out, **options).run()  # type: ignore[arg-type]
    return out.getvalue()


def test_a_terminal_answer_is_that_of_generate(model: VisionLanguageModel) -> None:
    expected = generate(model, [ask("hi")], GREEDY)[0].text
    assert chat(model, "hi").splitlines()[1:] == expected.splitlines()


def test_an_answer_is_written_while_it_comes_and_never_its_stop_string(model: VisionLanguageModel) -> None:
    out = io.StringIO()
    printer = AnswerPrinter(model, out)
    shown = []
    printer.put(torch.zeros(1, 0, dtype=torch.long))  # a prompt of embeddings has no ids
    for token in model.tokenizer.encode("a red ball###Human"):
        printer.put(torch.tensor([token]))
        shown.append(out.getvalue())
    printer.end()
    assert shown[0] == "a"
    assert not any("#" in text for text in shown)
    assert out.getvalue() == "a red ball"


@pytest.mark.parametrize(("one_image", "turns"), [(False, [1, 3, 5, 1]), (True, [1, 3, 1, 1])])
def test_the_conversation_goes_on_until_a_new_one(tmp_path: Path, one_image: bool, turns: list[int]) -> None:
    model = tiny_model(sampling=GREEDY, one_image_per_chat=one_image)
    image = f"/image {tmp_path / 'one.png'}"
    picture(1).save(tmp_path / "one.png")
    seen: list[int] = []
    embed = model.embed_prompt
    model.embed_prompt = lambda turns: seen.append(len(turns)) or embed(turns)  # type: ignore[method-assign, func-returns-value]
    text = chat(model, image, "hi", "and?", image, "hi", "/new", "hi", "/what", "/quit", "never read")
    assert seen == turns
    assert ("A new image begins a new chat." in text) == one_image
    assert "/image FILE" in text.splitlines()[-1]


def test_a_mistake_is_one_line_and_the_chat_goes_on(model: VisionLanguageModel) -> None:
    text = chat(model, "/image nowhere.png", "hi")
    assert "error: " in text
    assert "nowhere.png" in text
    assert text.splitlines()[-1] == generate(model, [ask("hi")], GREEDY)[0].text.splitlines()[-1]


def test_beams_give_the_answer_of_beam_search(model: VisionLanguageModel) -> None:
    expected = generate(model, [ask("hi")], GREEDY, num_beams=3)[0].text
    assert chat(model, "hi", num_beams=3).splitlines()[1:] == expected.splitlines()


def test_prompt_lookup_changes_no_greedy_answer(model: VisionLanguageModel) -> None:
    long = replace(GREEDY, max_new_tokens=60)
    plain = generate(model, [ask("hi", picture(2))], long)[0]
    assert generate(model, [ask("hi", picture(2))], long, prompt_lookup=5)[0] == plain


@pytest.mark.parametrize("options", [{"num_beams": 2, "prompt_lookup": 3}, {"prompt_lookup": 3}])
def test_prompt_lookup_says_what_it_can_not_do(model: VisionLanguageModel, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="one conversation at a time"):
        generate(model, [ask("a"), ask("b")], GREEDY, **options)


def test_a_file_of_questions_comes_back_with_answers(model: VisionLanguageModel, tmp_path: Path) -> None:
    picture(3).save(tmp_path / "three.png")
    records: list[dict[str, Any]] = [{"question": "hi", "image": "three.png", "id": 7}, {"question": "and you?"}]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n\n".join(map(json.dumps, records)) + "\n")
    out = io.StringIO()
    answer_file(model, path, num_beams=2, out=out)
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [{**record, "answer": found["answer"]} for record, found in zip(records, answers, strict=True)] == answers
    assert answers[0]["answer"] == generate(model, [ask("hi", picture(3))], GREEDY, num_beams=2)[0].text


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("{broken", RequestError, "line 2: not JSON"),
        ('{"image": "a.png"}', RequestError, "line 2: write"),
        ('{"question": "hi", "image": "gone.png"}', RequestError, "line 2: there is no file .*gone.png"),
        ('{"question": "hi", "image": "questions.jsonl"}', ImageError, "line 2: .*is not an image"),
        ('{"question": " "}', RequestError, "line 2: Type a question"),
    ],
)
def test_a_bad_line_is_named(
    model: VisionLanguageModel, tmp_path: Path, line: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "fine"}\n' + line)
    with pytest.raises(error, match=message):
        answer_file(model, path, out=io.StringIO())


def last_prompt(model: VisionLanguageModel) -> list[str]:
    """A list that will hold the texts of the conversation that the model reads next."""
    seen: list[str] = []
    embed = model.embed_prompt
    model.embed_prompt = lambda turns: seen.extend(turn.text for turn in turns) or embed(turns)  # type: ignore[method-assign, func-returns-value]
    return seen


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> VisionLanguageModel:
    """A model started with `--ocr --gen` that answers with a caption; a script reads and draws."""
    reader, generator = ScriptedReader("EXIT 42"), ScriptedGenerator()
    monkeypatch.setattr(terminal, "with_aids", lambda chat: AidedModel(chat, reader=reader, generator=generator))
    model = tiny_model(sampling=GREEDY, aids=Aids(ocr=True, generate=True))
    read = Turn("user", "hi\nReference OCR Token: EXIT 42\n <GEN>", (picture(3),))
    say(model, prompt_tokens(model, [read]), "<h>a lake</h>")
    return model


def test_a_file_of_questions_has_text_read_and_pictures_drawn(
    drawing: VisionLanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(3).save(tmp_path / "three.png")
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "hi", "image": "three.png"}')
    seen = last_prompt(drawing)
    out = io.StringIO()
    answer_file(drawing, path, out=out)
    assert seen == ["hi\nReference OCR Token: EXIT 42\n <GEN>"]
    assert json.loads(out.getvalue()) == {
        "question": "hi",
        "image": "three.png",
        "answer": "<h>a lake</h>",
        "picture": "questions-line1.png",
    }
    assert capsys.readouterr().err == f"note: {path}, line 1: Text read in the image: EXIT 42\n"
    assert Image.open(tmp_path / "questions-line1.png").size == OTHER.size


def test_the_terminal_reads_text_and_saves_pictures(
    drawing: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(3).save("three.png")
    picture(3).save("drawn.png")
    lines = chat(drawing, "/image three.png", "hi").splitlines()
    assert lines[1:] == ["<h>a lake</h>", "note: Text read in the image: EXIT 42", "picture: drawn-2.png"]
    assert Image.open("drawn-2.png").size == OTHER.size


def test_a_picture_that_can_not_be_saved_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"can't be saved as .*drawn\.png"):
        save_picture(OTHER, tmp_path / "gone", "drawn")


@pytest.mark.parametrize(("room", "reason"), [(600, "stop"), (490, "length")])
def test_an_answer_cut_by_the_context_says_so(model: VisionLanguageModel, room: int, reason: str) -> None:
    long = ask("x" * 400)
    size = prompt_tokens(model, long)
    say(model, size, "a" * 60 if reason == "stop" else "a" * 600)
    (answer,) = GeneratingModel(model).stream(long, replace(GREEDY, max_new_tokens=room))
    assert answer.finish_reason == reason
    assert [f"cut at {512 - size} tokens" in notice for notice in answer.notices] == [True] * (reason == "length")


def test_settings_out_of_range_are_refused(model: VisionLanguageModel, tmp_path: Path) -> None:
    model.info = replace(model.info, sampling=replace(GREEDY, top_p=3))
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "hi"}')
    with pytest.raises(RequestError, match="line 1: top_p is 3; it must be"):
        answer_file(model, path)
    assert "error: top_p is 3; it must be" in chat(model, "hi")


def test_a_question_that_can_not_be_asked_is_refused_as_on_the_page(model: VisionLanguageModel, tmp_path: Path) -> None:
    model.info = replace(model.info, tasks=TASKS)
    picture(1).save(tmp_path / "one.png")
    lines = chat(model, "[refer] dog", "/image", f"/image {tmp_path / 'one.png'}", "[refer]").splitlines()
    assert "is about an image" in lines[1]
    assert lines[2].startswith("/image FILE")
    assert "Type something after [refer]" in lines[3]


def test_files_are_looked_at_before_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Mock()
    monkeypatch.setattr("models.loader.load_model", loaded)
    (tmp_path / "questions.jsonl").write_text('{"question": "hi", "image": "gone.png"}')
    assert demo.main(["--ask", str(tmp_path / "questions.jsonl")]) == 2
    assert demo.main(["--terminal", "--image", str(tmp_path / "gone.png")]) == 2
    assert not loaded.called


def test_a_missing_file_is_named(model: VisionLanguageModel) -> None:
    with pytest.raises(RequestError, match=r"gone\.jsonl can't be read"):
        answer_file(model, Path("gone.jsonl"))
