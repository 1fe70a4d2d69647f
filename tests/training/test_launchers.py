"""Two processes under torchrun and under `accelerate launch`, over gloo, against one that accumulates two batches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.test_train_stage import losses
from tests.training.tiny_stages import tiny_recipe
from training.recipe import Recipe
from training.train import run_stage

ROOT = Path(__file__).parents[2]
# Warned of by the libraries themselves, whatever is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
}


def recipe_of(folder: Path, gradient_accumulation: int) -> Recipe:
    """Two steps without dropout, whose random numbers are each process's own."""
    steps = {"epochs": 1, "steps_per_epoch": 2}
    settings = {"stage": "1", "text": {"prompt": "image"}, "schedule": steps}
    return tiny_recipe(folder, "minigpt4-vicuna0", gradient_accumulation=gradient_accumulation, **settings)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run_stage(recipe_of(folder, gradient_accumulation=2))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_are_two_accumulated_batches(launcher: str, alone: Path, tmp_path: Path) -> None:
    together = recipe_of(tmp_path, gradient_accumulation=1)
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "training", "--cfg-path", str(together.source)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert losses(tmp_path, step=2) == pytest.approx(losses(alone, step=2), rel=1e-5)
    ours, theirs = (torch.load(folder / "output" / "final" / "checkpoint.pth")["model"] for folder in (tmp_path, alone))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-6), name
