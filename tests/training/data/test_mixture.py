"""The batches of a run: the same whenever they are asked for, and what becomes of unusable examples."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from models.vision_language_model import IGNORED_LABEL
from tests.training.data.small_data import Numbers
from tests.training.tiny_stages import tiny_recipe
from training.data.batch_plans import RatioPlan
from training.data.minigpt_sequences import Batch
from training.data.mixture import MixtureDataset, TooManyUnusable
from training.train import main


def number_batch(examples: Any, rng: Random) -> Batch:
    """Rows of two tokens, the answer's number twice."""
    tensor = torch.tensor([[float(example.answers[0])] * 2 for example in examples])
    return Batch(tensor, tensor, tensor, None)


def test_missing_pictures_are_counted_and_replaced_up_to_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    reader = Numbers(6, gone=frozenset({1, 2, 3}))
    plan = RatioPlan([reader], [1], [6], length=3, seed=0)
    batches = MixtureDataset([reader], plan, number_batch, seed=0, max_missing=3)
    questions = [example.questions[0] for example in batches.examples(0)]
    assert len(questions) == 6
    assert not {"1", "2", "3"} & set(questions)
    assert batches.tally.num_unusable == 3
    assert "2.jpg" in caplog.text
    for number in range(3):
        batches.examples(number)
    assert batches.tally.num_unusable == 3, "each counts once"
    batches = MixtureDataset([reader], plan, number_batch, seed=0, max_missing=2)
    with pytest.raises(TooManyUnusable, match=r"^3 examples could not be used \(the last: .*training\.prepare"):
        batches.examples(0)
    batches = MixtureDataset([reader], plan, number_batch, seed=0, max_missing=100, max_share=0.4)
    with pytest.raises(TooManyUnusable, match=r"3 of 6 examples could not be used .* raise data\.max_missing_share"):
        batches.examples(0)


def test_a_data_set_of_which_nothing_can_be_used_is_refused_whatever_is_allowed() -> None:
    readers = [Numbers(50), Numbers(4, gone=frozenset(range(4)))]
    plan = RatioPlan(readers, [1, 1], [1, 1], length=20, seed=0)
    batches = MixtureDataset(readers, plan, number_batch, seed=0, max_missing=10**9, max_share=1.0)
    with pytest.raises(TooManyUnusable, match="not one example can be used"):
        [batches[number] for number in range(20)]


def test_an_example_without_labels_is_replaced_as_one_without_picture_is() -> None:
    def without_some(examples: Any, rng: Random) -> Batch:
        """The questions' numbers as labels; from 5 on only the first token has one, which is no prediction."""
        del rng
        numbers = [int(example.questions[0]) for example in examples]
        labels = torch.tensor([[1, IGNORED_LABEL if number >= 5 else number] for number in numbers])
        return Batch(labels, labels, labels, None)

    reader = Numbers(8)
    plan = RatioPlan([reader], [1], [4], length=4, seed=0)
    batches = MixtureDataset([reader], plan, without_some, seed=0, max_missing=3)
    learnt = torch.cat([batches[number]["labels"][:, 1] for number in range(4)])
    assert len(learnt) == 16
    assert set(learnt.tolist()) <= set(range(5))
    assert batches.tally.num_unusable == 3
    assert torch.equal(batches[1]["labels"], batches[1]["labels"])
    fewer = MixtureDataset([reader], plan, without_some, seed=0, max_missing=2)
    with pytest.raises(TooManyUnusable, match=r"nothing of its answer lies within text\.max_tokens"):
        [fewer[number] for number in range(4)]


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning", "ignore::DeprecationWarning")
def test_missing_pictures_are_counted_over_all_data_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    for number in range(1, 6):
        (tmp_path / "data" / "align" / "image" / f"{number}.jpg").unlink()
    command = ["--cfg-path", str(recipe.source), "--options", "data.workers=2", "data.max_missing_share=1"]
    assert main([*command, "data.max_missing_images=4"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"error: 5 examples could not be used \(the last: .*\.jpg.*\); `python -m training\.pre", error)
    assert main([*command, "data.max_missing_images=1000", f"output_dir={tmp_path / 'other'}"]) == 0


def test_a_batch_is_the_same_whenever_it_is_asked_for() -> None:
    reader = Numbers(9)
    plan = RatioPlan([reader], [1], [3], length=5, seed=0)
    first, second = (MixtureDataset([reader], plan, number_batch, seed=7, max_missing=0) for _ in range(2))
    in_order = [first[number]["input_ids"].tolist() for number in range(5)]
    assert [second[number]["input_ids"].tolist() for number in (4, 2)] == [in_order[4], in_order[2]]
    other = MixtureDataset([reader], plan, number_batch, seed=8, max_missing=0)
    assert other[0]["input_ids"].tolist() != in_order[0]
