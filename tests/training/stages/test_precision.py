"""Mixed precision: what bf16 changes on a CPU, what stays float32, and what needs a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.errors import ConfigError
from models.loader import load_model
from tests.training.runs import KeepModel, losses
from tests.training.tiny_stages import llava_recipe, tiny_recipe
from training.recipe import Recipe
from training.train import main, run_stage

# Warned of by the libraries themselves, whatever is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),  # only slower
]


def recipe_of(case: str, folder: Path, precision: str) -> Recipe:
    """Two steps over a recorded model that is loaded in bfloat16."""
    if case == "mgm-7b":
        recipe = llava_recipe(folder, case, "2", precision=precision)
    else:
        steps = {"epochs": 1, "steps_per_epoch": 2}
        stage = "4" if case == "tinygptv-stage4" else "3"
        recipe = tiny_recipe(folder, case, stage=stage, schedule=steps, precision=precision)
    recipe.model["dtype"] = "bfloat16"
    return recipe


@pytest.mark.parametrize("case", ["minigpt_v2", "tinygptv-stage4", "mgm-7b"])
def test_bf16_trains_float32_weights_with_nearly_the_same_losses(case: str, tmp_path: Path) -> None:
    exact = recipe_of(case, tmp_path / "exact", "no")
    run_stage(exact)
    keeper = KeepModel()
    result = run_stage(recipe_of(case, tmp_path / "mixed", "bf16"), callbacks=[keeper])
    kinds = {
        learns: {parameter.dtype for parameter in keeper.model.parameters() if parameter.requires_grad == learns}
        for learns in (True, False)
    }
    assert kinds[True] == {torch.float32}
    assert torch.bfloat16 in kinds[False]
    expected, actual = (losses(tmp_path / name, step=2) for name in ("exact", "mixed"))
    assert actual == pytest.approx(expected, rel=0.02)
    assert actual != expected, "nothing was computed in bfloat16"
    loaded = load_model(result, device="cpu", report=None)
    assert all(parameter.isfinite().all() for parameter in loaded.parameters())


def test_frozen_weights_are_in_the_format_of_the_products(tmp_path: Path) -> None:
    """A config for fp16 trains in bf16 with one option; weights in the other half format could not be multiplied."""
    recipe = recipe_of("minigpt_v2", tmp_path, "bf16")
    recipe.model["dtype"] = "float16"
    keeper = KeepModel()
    run_stage(recipe, callbacks=[keeper])
    assert {parameter.dtype for parameter in keeper.model.parameters()} <= {torch.float32, torch.bfloat16}


def test_the_launcher_may_not_ask_for_another_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate's configuration would have the last word where the recipe says "no"."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    with pytest.raises(ConfigError, match=r"precision is no, but accelerate's configuration says bf16; add --options"):
        run_stage(recipe)


def test_fp16_needs_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path, "minigpt_v2", stage="3")
    assert main(["--cfg-path", str(recipe.source), "--options", "precision=fp16"]) == 2
    error = capsys.readouterr().err.strip()
    assert error == f"error: {recipe.source}: precision fp16 needs a GPU; use --options precision=no on a CPU."
    with pytest.raises(ConfigError):
        run_stage(tiny_recipe(tmp_path, "minigpt_v2", stage="3", precision="fp16"))
