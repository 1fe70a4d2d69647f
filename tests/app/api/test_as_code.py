"""The code of an answer is run, as a person would who copied it, and gives the answer again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.api.as_code import KEY_VARIABLE, Server, as_code
from app.chat.exchange import Exchange, WantedExtras
from app.chat.pictures import open_picture
from app.chat.session import ChatSession
from engine.chat_model import ChatModel
from models.conversation import Answer, Sampling
from tests.app.api.conftest import ANSWER
from tests.app.api.serving import NAME, Api
from tests.app.helpers import scene
from tests.fakes import INFO, ScriptedModel
from tests.waiting import eventually

SAMPLING = Sampling(temperature=0.3, top_p=0.7, max_new_tokens=11, repetition_penalty=1.1, seed=12345678901234567)
HOSTILE = "it's $HOME `id` \\n \"quoted\" 'single' ünï\n</b> END $(id)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the code runs, with the picture it names."""
    scene().save(tmp_path / "a scene's.png")
    return tmp_path


def asked(model: ChatModel, folder: Path, *questions: str) -> ChatSession:
    """A conversation about the picture, of these questions."""
    session = ChatSession()
    pictures = [open_picture(folder / "a scene's.png")]
    for question in questions:
        list(session.ask(model, question, pictures, SAMPLING))
        pictures = []
    return session


def run(code: str, kind: str, folder: Path) -> str:
    """What the code prints."""
    command: Sequence[str] = [sys.executable, "-c", code] if kind != "curl" else ["bash", "-c", code]
    environment = os.environ | {KEY_VARIABLE: "none"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["openai", "gradio_client", "curl"])
@pytest.mark.parametrize("questions", [(f"[detection] {HOSTILE}",), ("What is it?", HOSTILE)])
def test_the_code_gives_the_answer_again(
    api: Api, scripted: ScriptedModel, folder: Path, kind: str, questions: tuple[str, ...]
) -> None:
    if kind == "curl" and not (shutil.which("curl") and shutil.which("base64")):
        pytest.skip("no curl")
    session = asked(scripted, folder, *questions)
    there = scripted.seen[-1]
    code = as_code(session.exchanges, len(questions) - 1, Server(url=api.url, model=NAME))[kind]
    assert ANSWER in run(code, kind, folder)
    again, sampling = scripted.seen[-1], scripted.samplings[-1]
    assert len(scripted.seen) == len(questions) + 1
    assert [(turn.role, turn.text) for turn in again] == [(turn.role, turn.text) for turn in there]
    assert [[image.tobytes() for image in turn.images] for turn in again] == [
        [image.tobytes() for image in turn.images] for turn in there
    ]
    assert sampling == SAMPLING


def test_a_question_without_an_answer_leaves_its_picture_to_the_next(folder: Path) -> None:
    picture = open_picture(folder / "a scene's.png")
    exchanges = [
        Exchange("first", (), SAMPLING, Answer(text="yes", finish_reason="stop")),
        Exchange("second", (picture,), SAMPLING, begins_anew=True),
        Exchange("third", (), SAMPLING),
    ]
    code = as_code(exchanges, 2, Server(url="http://here/", model=NAME))
    assert "first" not in code["openai"] + code["curl"]
    assert "second" not in code["openai"]
    assert "a scene's.png" in code["gradio_client"]


def test_what_the_endpoint_cannot_say_is_left_out(folder: Path) -> None:
    picture = open_picture(folder / "a scene's.png")
    first = Exchange("first", (), SAMPLING, Answer(text="yes", finish_reason="stop"))
    server = Server(url="http://here/", model=NAME)
    assert set(as_code([first, Exchange("next", (picture,), SAMPLING)], 1, server)) == {"openai", "curl"}
    assert set(as_code([Exchange("both", (picture, picture), SAMPLING)], 0, server)) == {"openai", "curl"}


def test_a_key_and_extras_are_said(folder: Path) -> None:
    exchange = Exchange("hi", (), SAMPLING, extras=WantedExtras(reads_text=True, wants_picture=True))
    code = as_code([exchange], 0, Server(url="http://here/", model=NAME, needs_key=True, has_extras=True))
    assert all(KEY_VARIABLE in one for one in code.values())
    assert "'read_text': True" in code["openai"]
    assert '"read_text": true' in code["curl"]
    assert "draw_picture=True" in code["gradio_client"]
    for one in ("openai", "gradio_client"):
        compile(code[one], one, "exec")


def test_a_seed_that_was_not_chosen_is_not_said() -> None:
    exchange = Exchange("hi", (), replace(SAMPLING, seed=None))
    assert not any("seed" in one for one in as_code([exchange], 0, Server(url="http://h/", model=NAME)).values())


def test_reading_text_is_refused_where_there_is_no_ocr(api: Api, scripted: ScriptedModel) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "read_text": True}
    answer = api.post("/v1/chat/completions", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "read_text")
    assert api.post("/v1/chat/completions", body | {"read_text": False}).status_code == 200
    assert INFO.extras is None
    assert eventually(lambda: scripted.open_streams == 0)
