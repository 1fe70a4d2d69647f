"""Runs that are ill from the command line on: one line with the reason, and nothing exported."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.paths import ROOT
from tests.training.runs import losses
from tests.training.tiny_stages import llava_recipe, write_json
from training.batch_trainer import STATE_FILE
from training.recipe import Recipe, load_recipe
from training.train import main

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def run_ill(recipe: Recipe, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The line with which a run ends that leaves nothing to try."""
    assert main(["--cfg-path", str(recipe.source), "--options", "seed=42", *options]) == 2
    shown = capsys.readouterr()
    assert "Done" not in shown.out
    assert not (Path(recipe.output_dir) / "final").exists()
    return shown.err.splitlines()[-1]


def test_a_learning_rate_too_high(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its losses stay numbers, but the bundled model's weights do not."""
    recipe = llava_recipe(tmp_path, "moe-llava-phi2", "3")
    bundled = load_recipe(ROOT / "training" / "configs" / "tiny_moe_llava.yaml")
    model = {**bundled.model, "language_model": str(ROOT / "checkpoints" / "tiny_moe_llava")}
    options = ("schedule.init_lr=1000000.0", "schedule.epochs=8", "data.batch_size=1", "save_every_steps=1")
    line = run_ill(recipe, capsys, f"model={json.dumps(model)}", *options)
    assert re.match(r"error: (step \d+: (the (loss|gradient) is|\d+ steps in a row)|.* is not written: )", line), line
    # The newest, or the one before where the first lost loss said that the newest's weights were spoiled already.
    good = re.search(r"The last good checkpoint is (\S+); begin again", line)
    assert good is not None, line
    assert Path(good[1]).parent == Path(recipe.output_dir) / "checkpoints"
    assert all(tensor.isfinite().all() for tensor in load_file(Path(good[1]) / STATE_FILE).values())


def conversations_of(question: str, count: int) -> list[dict[str, Any]]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "a red circle"}]
    return [{"id": str(number), "image": "a.png", "conversations": turns} for number in range(count)]


LONG = "why? " * 400
NOTHING_LEFT = "nothing of its answer lies within text.max_tokens"


def test_examples_that_are_too_long_to_have_labels_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = llava_recipe(tmp_path, "moe-llava-phi2", "3")
    write_json(tmp_path / "data" / "items.json", conversations_of(LONG, 3))
    options = ("text.max_tokens=300", "data.max_missing_images=100000")
    line = run_ill(recipe, capsys, *options)
    assert re.match(rf"error: .*items\.json: \d+ of 3 examples could not be used.*{NOTHING_LEFT}", line), line
    line = run_ill(recipe, capsys, *options, "data.max_missing_share=1")
    assert re.match(rf"error: .*items\.json: not one example can be used.*{NOTHING_LEFT}", line), line


def test_one_example_without_labels_spoils_no_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither that of its own batch, nor a later one, nor that on held-out data."""
    recipe = llava_recipe(tmp_path, "moe-llava-phi2", "3")
    write_json(tmp_path / "data" / "items.json", [*conversations_of(LONG, 1), *conversations_of("why?", 5)])
    held_out = "{format: moe_llava, annotations: items.json, batch_size: 1}"
    evaluation = f"evaluation={{every_steps: 6, num_batches: 6, num_answers: 0, datasets: [{held_out}]}}"
    options = [
        "text.max_tokens=300",
        "data.batch_size=1",
        "save_every_steps=6",
        "data.max_missing_share=0.2",
        evaluation,
    ]
    assert main(["--cfg-path", str(recipe.source), "--options", *options, evaluation]) == 0
    assert "items.json, example 0: " + NOTHING_LEFT in caplog.text
    assert len(losses(tmp_path, step=6)) == 6
    assert all(map(math.isfinite, losses(tmp_path, step=6)))
    state = json.loads((tmp_path / "output/checkpoints/checkpoint-6/trainer_state.json").read_text())
    on_held_out = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert len(on_held_out) == 1
    assert all(map(math.isfinite, on_held_out))
