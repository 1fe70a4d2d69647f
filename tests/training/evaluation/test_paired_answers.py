"""Answers of two precisions to the same questions: which became worse, which better, and what chance does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from training.evaluation.paired_answers import chance_of, compare, main, mean_of, paired
from training.evaluation.scene_accuracy import VQA_GOALS, Asked, ask_scenes


def test_chance_is_that_of_coins() -> None:
    assert chance_of(0, 0) == 1
    assert chance_of(3, 3) == 1
    assert chance_of(5, 0) == chance_of(0, 5) == 2 / 2**5
    assert chance_of(1, 4) == pytest.approx(2 * (1 + 5) / 2**5)


def test_what_became_worse_does_not_hide_behind_what_became_better() -> None:
    samples = [sample for _, sample in ask_scenes("colour", 4, 0, boxes=False)]
    right = [sample.answer for sample in samples]
    full, ours = [*right[:3], "?"], ["?", *right[1:]]
    (pair,) = paired("8bit", "colour", samples, full, ours)
    assert (pair.full, pair.ours, pair.worse, pair.better, pair.chance) == (0.75, 0.75, 1, 1, 1.0)


def test_captions_are_compared_one_by_one() -> None:
    samples = [sample for _, sample in ask_scenes("caption", 3, 0, boxes=False)]
    right = [sample.answer for sample in samples]
    (pair,) = paired("4bit", "caption", samples, right, [*right[:2], "nothing at all."])
    assert (pair.figure, pair.full, pair.worse, pair.better) == ("caption_f1", 1.0, 1, 0)
    assert 0 < pair.ours < 1


def test_all_kinds_of_short_questions_are_one_mean() -> None:
    asked = {task: ask_scenes(task, 2, 0, boxes=False) for task in VQA_GOALS}

    def rightly(questions: Sequence[Asked]) -> list[str]:
        return [sample.answer for _, sample in questions]

    def wrongly_about_counts(questions: Sequence[Asked]) -> list[str]:
        return ["?" if sample.task == "count" else sample.answer for _, sample in questions]

    found = compare({"none": rightly, "8bit": rightly, "4bit": wrongly_about_counts}, asked)
    means = {pair.precision: pair for pair in found if pair.figure == "vqa_mean"}
    assert (means["8bit"].ours, means["8bit"].worse) == (1.0, 0)
    assert (means["4bit"].full, means["4bit"].worse, means["4bit"].questions) == (1.0, 2, 2 * len(VQA_GOALS))
    assert means["4bit"].ours == pytest.approx(1 - 1 / len(VQA_GOALS))
    assert mean_of([pair for pair in found if pair.precision == "4bit"]) == means["4bit"]


def test_a_checkpoint_is_asked_in_every_precision_and_answers_are_kept(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["--cfg-path", "eval_configs/tiny_minigpt4.yaml", "--scenes", "2", "--tasks", "colour"]
    arguments += ["--answers", str(tmp_path / "answers"), "--output", str(report)]
    assert main(arguments) == 0
    first = json.loads(report.read_text())
    kept = {path.name: path.read_text() for path in (tmp_path / "answers").iterdir()}
    assert sorted(kept) == [f"tiny_minigpt4-{precision}.jsonl" for precision in ("4bit", "8bit", "none")]
    assert all(text.count("\n") == 2 for text in kept.values())
    assert main(arguments) == 0
    assert {path.name: path.read_text() for path in (tmp_path / "answers").iterdir()} == kept
    assert json.loads(report.read_text())["figures"] == first["figures"]
