"""`--ask`: a file of questions, with damaged lines, stopped and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.batch.ask import answer_file, check_files
from app.batch.results import open_results
from app.extras.extended_model import ExtendedModel
from engine.chat_model import ChatModel
from models.conversation import Turn
from models.errors import NotFinite, RequestError
from models.extras import Extras
from tests.app.extras.scripted import ScriptedGenerator, ScriptedReader
from tests.fakes import INFO, ScriptedModel
from tests.paths import ROOT
from tests.tiny_model import picture


def about(turns: Sequence[Turn]) -> str:
    return f"<p>{turns[-1].text}</p> {{<10><20><50><60>}}"


def model(**options: Any) -> ScriptedModel:
    return ScriptedModel(default=about, **options)


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    picture(1).resize((200, 100)).save(tmp_path / "one.png")
    lines = [{"question": f"what is {number}", "image": "one.png", "id": number} for number in range(5)]
    return write(tmp_path / "questions.jsonl", *lines)


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ask(chat: ChatModel, questions: Path, *, at_once: int = 3) -> list[dict[str, Any]]:
    """What the output holds after a run."""
    output = questions.with_name("answers.jsonl")
    answer_file(chat, questions, output=output, at_once=at_once)
    return results(output)


def test_lines_come_back_in_their_order_with_answers_and_regions(questions: Path) -> None:
    found = ask(model(), questions)
    assert [one["id"] for one in found] == [0, 1, 2, 3, 4]
    region = {"label": "what is 4", "number": 1, "box": [0.105, 0.205, 0.505, 0.605], "pixels": [21, 20, 101, 60]}
    assert found[4] == {
        "question": "what is 4",
        "image": "one.png",
        "id": 4,
        "answer": "<p>what is 4</p> {<10><20><50><60>}",
        "regions": [region],
        "model": INFO.name,
    }


def test_what_is_asked_for_names_boxes_that_have_no_phrase(questions: Path) -> None:
    write(questions, {"question": "[refer] where is the cup ?", "image": "one.png"}, {"question": "hi"})
    found = ask(ScriptedModel(default="{<10><20><50><60>}"), questions)
    assert [region["label"] for region in found[0]["regions"]] == ["the cup"]
    assert found[1]["regions"] == []  # there is no picture that a box could be in


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "not JSON (Expecting"),
        ("[1]", 'write {"question": "…", "image": "FILE"}'),
        ('{"image": "one.png"}', 'write {"question"'),
        ('{"question": "hi", "image": 7}', 'write {"question"'),
        ('{"question": "hi", "image": "gone.png"}', "gone.png can't be read (No such file"),
        ('{"question": "hi", "image": "a\\u0000b"}', "can't be read (its name is none)"),
        ('{"question": "hi", "image": "questions.jsonl"}', "is not an image"),
        ('{"question": " "}', '"question" is empty.'),
        ('{"question": "[refer] dog"}', '[refer] is about an image: give this line an "image".'),
        ('{"question": "[refer]", "image": "one.png"}', '"question" must go on after [refer]'),
        (
            '{"question": "[identify] what is this", "image": "one.png"}',
            "needs a box: put its corners into the question",
        ),
        ("[" * 100_000, "not JSON ("),
    ],
)
def test_a_bad_line_has_its_error_in_words_of_a_file_and_the_rest_goes_on(
    questions: Path, line: str, message: str
) -> None:
    write(questions, {"question": "first"}, "", line, {"question": "last"})
    with pytest.raises(RequestError, match=r"questions\.jsonl: 1 line has no answer but an error \(line 3\)"):
        ask(model(), questions)
    first, bad, last = results(questions.with_name("answers.jsonl"))
    assert message in bad["error"]
    assert "answer" not in bad
    assert "Remove some" not in bad["error"]
    assert (first["question"], last["question"]) == ("first", "last")
    assert "answer" in last


def test_bytes_that_are_no_text_are_an_error_of_their_line(questions: Path) -> None:
    questions.write_bytes(b'{"question": "hi"}\n{"question": "\xff"}\n')
    with pytest.raises(RequestError, match="line 2"):
        ask(model(), questions)
    assert results(questions.with_name("answers.jsonl"))[1] == {"line": 2, "error": "not a text in UTF-8."}


def test_an_error_of_the_model_belongs_to_its_line(questions: Path) -> None:
    with pytest.raises(RequestError, match=r"1 line has no answer but an error \(line 2\)"):
        ask(ScriptedModel(script=["yes", NotFinite("NaN"), "no", "no", "no"]), questions, at_once=1)
    assert [one.get("error") for one in results(questions.with_name("answers.jsonl"))] == [
        None,
        "NaN",
        None,
        None,
        None,
    ]


def test_a_run_goes_on_where_it_was_stopped_and_a_half_line_is_asked_again(questions: Path) -> None:
    whole = ask(model(), questions)
    output = questions.with_name("answers.jsonl")
    content = output.read_bytes()
    for end in (0, 1, content.index(b"\n") + 1, content.index(b"\n") + 30, len(content) - 1, len(content)):
        output.write_bytes(content[:end])
        chat = model()
        assert ask(chat, questions) == whole
        assert len(chat.seen) == 5 - content[:end].count(b"\n")


def test_errors_of_an_earlier_run_are_still_told(questions: Path) -> None:
    write(questions, "{broken", {"question": "hi"})
    for _ in range(2):
        with pytest.raises(RequestError, match=r"\(line 1\)"):
            ask(model(), questions)
    assert len(results(questions.with_name("answers.jsonl"))) == 2


def test_answers_to_other_questions_or_of_another_model_are_not_gone_on_with(questions: Path) -> None:
    ask(model(), questions)
    with pytest.raises(
        RequestError, match=r"line 1, was answered by Scripted model, not Other; choose another file for the answers"
    ):
        ask(model(info=replace(INFO, name="Other")), questions)
    write(questions, {"question": "what is 0", "image": "one.png", "id": 0}, {"question": "something else"})
    with pytest.raises(RequestError, match=r"answers\.jsonl, line 2, is no answer to line 2 of the questions"):
        ask(model(), questions)
    write(questions, {"question": "what is 0", "image": "one.png", "id": 0})
    with pytest.raises(RequestError, match=r"line 2, is no answer to any line of the questions"):
        ask(model(), questions)


def test_a_lines_own_answer_is_replaced_and_does_not_stop_a_run_from_going_on(questions: Path) -> None:
    write(questions, *({"question": "hi", "answer": "expected", "model": "x", "id": number} for number in range(2)))
    assert [one["answer"] for one in ask(model(), questions)] == [about([Turn("user", "hi")])] * 2
    chat = model()
    ask(chat, questions)
    assert chat.seen == []


def test_only_one_run_writes_a_file(questions: Path) -> None:
    output = questions.with_name("answers.jsonl")
    with open_results(output), pytest.raises(RequestError, match="is being written by another run"):
        ask(model(), questions)
    assert len(ask(model(), questions)) == 5


def test_text_is_read_and_pictures_are_drawn(questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(questions, {"question": "hi", "image": "one.png"})
    inner = ScriptedModel(default="<h>a lake</h>", info=replace(INFO, extras=Extras(ocr=True, generate=True)))
    chat = ExtendedModel(inner, reader=ScriptedReader("EXIT 42"), generator=ScriptedGenerator())
    (found,) = ask(chat, questions)
    assert inner.last_question() == "hi\nReference OCR Token: EXIT 42\n <GEN>"
    assert found["picture"] == "questions-line1.png"
    assert questions.with_name("questions-line1.png").is_file()
    assert f"note: {questions}, line 1: Text read in the image: EXIT 42\n" in capsys.readouterr().err


def test_without_an_output_answers_are_all_that_stdout_gets(
    questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_file(model(), questions)
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [0, 1, 2, 3, 4]


def test_what_can_be_told_before_the_model_loads(questions: Path, tmp_path: Path) -> None:
    check_files(questions, tmp_path / "new.jsonl")
    with pytest.raises(RequestError, match=r"gone\.jsonl can't be read \(No such file"):
        check_files(tmp_path / "gone.jsonl", None)
    with pytest.raises(RequestError, match="holds no question"):
        check_files(write(tmp_path / "empty.jsonl", "", " "), None)
    with pytest.raises(RequestError, match="is the file of questions itself"):
        check_files(questions, tmp_path / "." / "questions.jsonl")
    with pytest.raises(RequestError, match=r".*gone/a\.jsonl can't be written"):
        check_files(questions, tmp_path / "gone" / "a.jsonl")


KILLED = """
import sys
from pathlib import Path
from app.batch.ask import answer_file
from tests.fakes import ScriptedModel
answer_file(ScriptedModel(delay=0.01), Path(sys.argv[1]), output=Path(sys.argv[2]), at_once=4)
"""


def test_a_run_that_is_killed_goes_on_with_one_answer_for_each_line(tmp_path: Path) -> None:
    """SIGKILL three times, wherever it is then; then to the end."""
    questions = write(tmp_path / "questions.jsonl", *({"question": "hi", "id": number} for number in range(60)))
    output = tmp_path / "answers.jsonl"
    command = [sys.executable, "-c", KILLED, str(questions), str(output)]
    for wanted in (5, 15, 30):
        with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
            while process.poll() is None and (not output.is_file() or output.read_bytes().count(b"\n") < wanted):
                pass
            process.send_signal(signal.SIGKILL)
        kept = output.read_bytes().count(b"\n")
        assert wanted <= kept < 60
    chat = ScriptedModel()
    answer_file(chat, questions, output=output, at_once=4)
    assert [one["id"] for one in results(output)] == list(range(60))
    assert len(chat.seen) == 60 - kept
