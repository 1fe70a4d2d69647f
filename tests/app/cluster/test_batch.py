"""A file of questions for a cluster: as `--ask` answers it, also when the run was killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.batch.ask import answer_file
from benchmarks.random_models import picture
from engine.chat_engine import ChatEngine
from models.errors import Busy, ImageError, RequestError, ServerFailed
from models.loader import load_model
from tests.app.cluster.asking import CONFIG, MODEL, QUESTIONS
from tests.fakes import ScriptedModel
from tests.paths import ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("with_ray")
NUM_LINES = 96


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Two of the lines are damaged."""
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    lines = [
        json.dumps({"question": QUESTIONS[number % 3], "image": f"{number % 4}.png", "id": number})
        for number in range(NUM_LINES)
    ]
    lines[3], lines[90] = "{no JSON", json.dumps({"question": "hi", "image": "nowhere.png"})
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(lines))
    return file


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def run_batch(questions: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    import ray

    pytest.importorskip("pyarrow", reason="Ray Data is not installed: pip install -r requirements-cluster.txt")
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "app.cluster.batch", questions, output, "--model", MODEL, "--at-once", "2", *more]
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": address},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("url")
def test_a_killed_run_goes_on_and_every_line_has_one_answer(questions: Path) -> None:
    output = questions.with_name("answers.jsonl")
    with run_batch(questions, output) as killed:
        assert eventually(lambda: len(results(output)) > 0 or killed.poll() is not None, timeout=120)
        assert killed.poll() is None, killed.communicate(timeout=60)[1]
        killed.send_signal(signal.SIGKILL)
    num_before = len(results(output))
    assert 0 < num_before < NUM_LINES
    with run_batch(questions, output) as second:
        assert second.stderr is not None
        said = second.stderr.read()
    assert second.returncode == 2, said  # as two lines have errors
    assert "2 lines have no answer but an error (lines 4, 91)" in said
    alone = questions.with_name("alone.jsonl")
    with ChatEngine(load_model(CONFIG, device="cpu", report=None)) as engine, pytest.raises(RequestError):
        answer_file(engine, questions, output=alone, at_once=4)
    told, expected = results(output), results(alone)
    assert [one.get("id") for one in told] == [one.get("id") for one in expected]
    assert [one.get("error") for one in told] == [one.get("error") for one in expected]
    assert [one.get("answer") for one in told] == [one.get("answer") for one in expected]


@pytest.mark.usefixtures("url")
def test_a_model_that_is_not_served_is_one_line(questions: Path) -> None:
    with run_batch(questions, questions.with_name("answers.jsonl"), "--model", "other") as run:
        assert run.stderr is not None
        said = run.stderr.read().splitlines()
    assert (run.returncode, said) == (2, [f"error: --model other: choose one of {MODEL}, tiny_moe_llava."])


@pytest.mark.parametrize("error", [Busy("full"), ServerFailed("died")])
def test_a_replica_that_dies_or_is_full_is_no_error_of_the_line(error: Exception, questions: Path) -> None:
    from app.cluster.batch import ClusterGone, Persistent

    questions.write_text('{"question": "hi"}')
    output = questions.with_name("answers.jsonl")
    answer_file(Persistent(ScriptedModel([error, error, "A circle."]), pauses=(0, 0)), questions, output=output)
    assert [one["answer"] for one in results(output)] == ["A circle."]
    output.unlink()
    with pytest.raises(ClusterGone):
        answer_file(Persistent(ScriptedModel([error] * 3), pauses=(0, 0)), questions, output=output)
    assert results(output) == []  # the next run asks it again


def test_what_is_wrong_with_a_line_is_asked_once(questions: Path) -> None:
    from app.cluster.batch import Persistent

    questions.write_text('{"question": "hi"}')
    output = questions.with_name("answers.jsonl")
    with pytest.raises(RequestError):
        answer_file(
            Persistent(ScriptedModel([ImageError("it is no picture"), "never asked"])), questions, output=output
        )
    assert [one["error"] for one in results(output)] == ["it is no picture"]
