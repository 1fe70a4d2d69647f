"""Asking a benchmark's questions: goes on where it was stopped, and never with answers of another run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.conversation import Answer, Sampling, Turn
from models.loader import load_model
from tests.training.tiny_stages import GOLDENS, draw_pictures, write_json
from training import evaluate
from training.benchmarks.run import Predictions, answer_all, check_same_run, run_benchmark
from training.benchmarks.tasks import Files, Question
from training.data.annotations import DataError


def test_a_benchmark_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    questions = [Question(str(number), Path(), f"question {number}", None) for number in range(4)]
    path = tmp_path / "predictions.jsonl"
    first = Predictions(path, task="gqa")
    first.add(questions[2], "kept")
    with path.open("a") as file:
        file.write('{"task": "gqa", "key": "1", "ans')  # killed while it wrote
    asked: list[str] = []

    def answer(question: Question) -> str:
        asked.append(question.key)
        return f"answer {question.key}"

    answers = answer_all(questions, Predictions(path, task="gqa"), answer)
    assert answers == ["answer 0", "answer 1", "kept", "answer 3"]
    assert sorted(asked) == ["0", "1", "3"]
    assert answer_all(questions, Predictions(path, task="gqa"), answer) == answers
    assert len(asked) == 3
    with pytest.raises(DataError, match=r"line 1: predictions of the task gqa"):
        Predictions(path, task="pope")


def test_a_run_that_ends_half_way_asks_only_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth picture is lost; the run ends there, and goes on when it is back."""
    draw_pictures(tmp_path, [f"{number}.png" for number in range(6)])
    items = [{"image": f"{number}.png", "question": f"is it {number}?", "answer": "no"} for number in range(6)]
    files = Files(write_json(tmp_path / "gqa.json", items), tmp_path)
    model = load_model(GOLDENS / "minigpt_v2" / "config.yaml", device="cpu", report=lambda _: None)
    whole = run_benchmark(model, "gqa", files, tmp_path / "whole")
    lost = (tmp_path / "3.png").rename(tmp_path / "away.png")
    monkeypatch.setattr("training.benchmarks.run.CONCURRENT", 1)  # so that it is known which are done
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
