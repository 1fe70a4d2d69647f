"""Asking a benchmark's questions: goes on where it was stopped, and never with answers of another run."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from models.conversation import Answer, Sampling, Turn
from models.disk import DiskFull
from models.loader import load_model
from tests.paths import ROOT
from tests.small_disk import small_disk
from tests.training.tiny_stages import GOLDENS, draw_pictures, write_json
from training.data.annotations import DataError
from training.evaluation import scene_accuracy as evaluate
from training.evaluation.public.benchmark_run import Predictions, answer_all, check_same_run, run_benchmark
from training.evaluation.public.benchmark_tasks import BenchmarkQuestion, Files
from training.evaluation.public.result_tables import markdown, write_tables


def test_a_benchmark_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    questions = [BenchmarkQuestion(str(number), Path(), f"question {number}", None) for number in range(4)]
    path = tmp_path / "predictions.jsonl"
    first = Predictions(path, task="gqa")
    first.add(questions[2], "kept")
    with path.open("a") as file:
        file.write('{"task": "gqa", "key": "1", "ans')  # killed while it wrote
    asked: list[str] = []

    def answer(questions: Sequence[BenchmarkQuestion]) -> Iterator[tuple[BenchmarkQuestion, str]]:
        for question in questions:
            asked.append(question.key)
            yield question, f"answer {question.key}"

    answers = answer_all(questions, Predictions(path, task="gqa"), answer)
    assert answers == ["answer 0", "answer 1", "kept", "answer 3"]
    assert sorted(asked) == ["0", "1", "3"]
    assert answer_all(questions, Predictions(path, task="gqa"), answer) == answers
    assert len(asked) == 3
    with pytest.raises(DataError, match=r"line 1: predictions of the task gqa"):
        Predictions(path, task="pope")


def test_a_full_disk_is_one_line_and_spoils_no_line(tmp_path: Path) -> None:
    question = BenchmarkQuestion("1", Path(), "question", None)
    path = tmp_path / "predictions.jsonl"
    predictions = Predictions(path, task="gqa")
    predictions.add(question, "kept")
    whole = path.read_text()
    with small_disk(len(whole) + 10), pytest.raises(DiskFull, match="the disk is full"):
        predictions.add(BenchmarkQuestion("2", Path(), "question", None), "lost")
    assert path.read_text() == whole
    predictions.add(BenchmarkQuestion("2", Path(), "question", None), "kept, too")
    assert Predictions(path, task="gqa").answers == {"1": "kept", "2": "kept, too"}


def test_a_run_that_ends_half_way_asks_only_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth picture is lost; the run ends there, and goes on when it is back."""
    draw_pictures(tmp_path, [f"{number}.png" for number in range(6)])
    items = [{"image": f"{number}.png", "question": f"is it {number}?", "answer": "no"} for number in range(6)]
    files = Files(write_json(tmp_path / "gqa.json", items), tmp_path)
    model = load_model(GOLDENS / "minigpt_v2" / "config.yaml", device="cpu", report=None)
    whole = run_benchmark(model, "gqa", files, tmp_path / "whole")
    lost = (tmp_path / "3.png").rename(tmp_path / "away.png")
    monkeypatch.setattr("training.evaluation.public.benchmark_run.CONCURRENT", 1)  # so that it is known which are done
    with pytest.raises(DataError, match=r"3\.png.*set --images"):
        run_benchmark(model, "gqa", files, tmp_path / "o")
    lost.rename(tmp_path / "3.png")
    kept = (tmp_path / "o" / "predictions.jsonl").read_text()
    assert [json.loads(line)["key"] for line in kept.splitlines()][:3] == ["0", "1", "2"]
    assert not (tmp_path / "o" / "results.json").exists()
    assert run_benchmark(model, "gqa", files, tmp_path / "o") == whole
    lines = (tmp_path / "o" / "predictions.jsonl").read_text()
    assert lines.startswith(kept)
    in_order = sorted(lines.splitlines())
    assert in_order == sorted((tmp_path / "whole" / "predictions.jsonl").read_text().splitlines())
    assert json.loads((tmp_path / "o" / "results.json").read_text())["questions"] == 6


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(python: list[str], tmp_path: Path) -> None:
    """SIGKILL after the first answers, wherever it is then; the second run asks the rest."""
    draw_pictures(tmp_path, ["0.png"])
    items = [{"image": "0.png", "question": f"is it {number}?", "answer": "no"} for number in range(60)]
    write_json(tmp_path / "gqa.json", items)
    config = str(GOLDENS / "minigpt_v2" / "config.yaml")
    arguments = ["--cfg-path", config, "--task", "gqa", "--annotations", str(tmp_path / "gqa.json")]
    arguments += ["--images", str(tmp_path), "--output"]
    predictions = tmp_path / "killed" / "predictions.jsonl"
    command = [*python, "-m", "training.evaluate", *arguments, str(tmp_path / "killed")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while process.poll() is None and not (predictions.is_file() and predictions.read_bytes().count(b"\n") > 2):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()  # until nobody writes any more
    kept = [line for line in predictions.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 2 < len(kept) < 60
    for folder in ("killed", "whole"):
        assert evaluate.main([*arguments, str(tmp_path / folder)]) == 0
    assert predictions.read_bytes().startswith(b"".join(kept))
    killed, whole = (tmp_path / folder for folder in ("killed", "whole"))
    answers = [sorted((folder / "predictions.jsonl").read_text().splitlines()) for folder in (killed, whole)]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 60
    assert (killed / "results.json").read_text() == (whole / "results.json").read_text()


def test_successive_runs_fill_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_pictures(tmp_path, ["0.png"])
    questions = [{"image": "0.png", "question": f"is it {number}?", "answer": "no"} for number in range(3)]
    write_json(tmp_path / "gqa_val.json", questions)
    line = {"question_id": 1, "image": "0.png", "text": "Is there a dog?", "label": "yes"}
    (tmp_path / "adversarial.jsonl").write_text(json.dumps(line))
    config = str(GOLDENS / "minigpt_v2" / "config.yaml")
    for task, file, options in (("gqa", "gqa_val.json", ["--limit", "2"]), ("pope", "adversarial.jsonl", [])):
        files = ["--annotations", str(tmp_path / file), "--images", str(tmp_path), *options]
        output = ["--output", str(tmp_path / "results" / task)]
        assert evaluate.main(["--cfg-path", config, "--task", task, *files, *output]) == 0
    assert str(tmp_path / "results" / "benchmarks.md") in capsys.readouterr().out
    header, _, row = (tmp_path / "results" / "benchmarks.md").read_text().splitlines()
    assert header == (
        "| Model | gqa: gqa_val, accuracy | pope: adversarial, accuracy | pope: adversarial, f1 "
        "| pope: adversarial, yes_ratio |"
    )
    assert re.fullmatch(r"\| golden MiniGPT-v2 (\| \d+\.00 \(first 2\) )(\| \d+\.00 ){3}\|", row), row
    pope = next(r for r in json.loads((tmp_path / "results" / "benchmarks.json").read_text()) if r["task"] == "pope")
    assert pope["figures"].keys() == {"accuracy", "precision", "recall", "f1", "yes_ratio"}
    (tmp_path / "results" / "gqa" / "results.json").write_text("{}")
    with pytest.raises(DataError, match=r"gqa/results\.json is no result of training\.evaluate; delete it"):
        write_tables(tmp_path / "results")


def test_the_table_tells_checkpoints_of_one_name_apart() -> None:
    same = {"model": "Tiny", "task": "gqa", "annotations": "val", "questions": 3, "limit": None}
    results = [same | {"config": name, "figures": {"accuracy": 0.5}} for name in ("a.yaml", "b.yaml")]
    captions = {"task": "caption", "figures": {"CIDEr": 1.2345}}
    assert markdown([*results, results[0] | captions]).splitlines() == [
        "| Model | gqa: val, accuracy | caption: val, CIDEr |",
        "|---|--:|--:|",
        "| Tiny (a.yaml) | 50.00 | 123.45 |",
        "| Tiny (b.yaml) | 50.00 |  |",
    ]


def test_a_damaged_prediction_is_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"task": "gqa", "key": "1", "answer": "a"}\n\x00\x00\n')
    with pytest.raises(DataError, match=r"predictions\.jsonl, line 2: not valid JSON; delete the line"):
        Predictions(path, task="gqa")
    path.write_text('{"task": "gqa", "answer": "a"}\n')
    with pytest.raises(DataError, match=r"predictions\.jsonl, line 1: field 'key' is missing"):
        Predictions(path, task="gqa")


def test_predictions_of_another_model_or_file_are_not_taken_over(tmp_path: Path) -> None:
    check_same_run(tmp_path / "o", {"task": "gqa", "annotations": "val.json"})
    check_same_run(tmp_path / "o", {"task": "gqa", "annotations": "val.json"})
    with pytest.raises(DataError, match=r"run\.json: .* another annotations \(val\.json, not test\.json\); choose"):
        check_same_run(tmp_path / "o", {"task": "gqa", "annotations": "test.json"})
    folders = {
        str(evaluate.default_output(Path(config), "gqa", Path(annotations)))
        for config in ("output/a/final/eval.yaml", "output/b/final/eval.yaml", "eval_configs/minigpt_v2.yaml")
        for annotations in ("x/val.json", "x/test.json")
    }
    assert len(folders) == 6
    assert "output/evaluation/a-gqa-val" in folders


def test_kept_answers_about_scenes_are_not_asked_again(tmp_path: Path) -> None:
    class FakeEngine:
        asked = 0

        def stream(self, turns: list[Turn], sampling: Sampling) -> Iterator[Answer]:
            self.asked += 1
            yield Answer(text=f"no {turns[0].text[:3]}")
            yield Answer(text=f"no {turns[0].text}")

    engine = FakeEngine()
    questions = evaluate.ask_scenes("existence", 4, 0, boxes=True)
    file = tmp_path / "kept.jsonl"
    first = evaluate.engine_answerer(engine, Predictions(file, task="scenes"))(questions[:3])  # type: ignore[arg-type]
    assert first == [f"no {sample.prompt}" for _, sample in questions[:3]]
    again = evaluate.engine_answerer(engine, Predictions(file, task="scenes"))(questions)  # type: ignore[arg-type]
    assert again[:3] == first
    assert engine.asked == 4
