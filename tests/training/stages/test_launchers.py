"""Two processes under torchrun and under `accelerate launch`, over gloo, against one that accumulates two batches.

A node is a command of its own, which finds the others by an address and a port, here of this machine.
"""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from tests.paths import ROOT
from tests.training.ranks import run_in_ranks
from tests.training.runs import losses
from tests.training.tiny import tiny_steps
from tests.training.tiny.small_networks import shown
from tests.training.tiny_stages import tiny_recipe
from tests.waiting import free_port
from training.batch_trainer import STATE_FILE, batch_arguments
from training.recipe import Recipe
from training.train import run_stage

# Warned of by the libraries themselves, whatever is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LAUNCHERS = {
    "torchrun": ["torch.distributed.run --standalone --nproc-per-node 2 --no-python"],
    "accelerate": ["accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0 --no_python"],
    "accelerate, two nodes": [
        "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 2 "
        f"--machine_rank {rank} --main_process_ip 127.0.0.1 --main_process_port PORT --no_python"
        for rank in range(2)
    ],
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
def test_two_processes_are_two_accumulated_batches(
    launcher: str, python: list[str], alone: Path, tmp_path: Path
) -> None:
    together = recipe_of(tmp_path, gradient_accumulation=1)
    program = [*python, "-m", "training", "--cfg-path", str(together.source)]
    port = str(free_port())
    nodes = [[*python, "-m", *node.replace("PORT", port).split(), *program] for node in LAUNCHERS[launcher]]
    with ThreadPoolExecutor() as threads:  # whoever fails is not waited for by the others for ever: they fail, too
        for node in threads.map(lambda one: subprocess.run(one, cwd=ROOT, capture_output=True, text=True), nodes):
            assert node.returncode == 0, node.stderr
    assert losses(tmp_path, step=2) == pytest.approx(losses(alone, step=2), rel=1e-5)
    ours, theirs = (torch.load(folder / "output" / "final" / "checkpoint.pth")["model"] for folder in (tmp_path, alone))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-6), name


@pytest.mark.slow
def test_a_run_survives_the_death_of_a_process(python: list[str], alone: Path, tmp_path: Path) -> None:
    """One of two is killed in the second step; torchrun starts both again, which go on after the first."""
    recipe = recipe_of(tmp_path, gradient_accumulation=1)
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "--no-python"]
    program = [*python, "-m", "tests.training.stages.dying_run", str(recipe.source)]
    command = [*python, "-m", *torchrun, *program]
    # Else the processes look for each other where those of the first start were.
    settings = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    begun = [int(line) for line in (tmp_path / "begun").read_text().split()]
    assert sorted(begun) == [0, 0, 1, 1]  # after how many steps each process began, of both starts
    assert losses(tmp_path, step=2) == pytest.approx(losses(alone, step=2), rel=1e-5)


@pytest.mark.slow
def test_two_processes_share_the_steps_of_a_bundled_model(python: list[str], tmp_path: Path) -> None:
    """Each has half of every step's batch; one process has both halves, one after the other."""
    for name, count in (("alone", 1), ("together", 2)):
        run_in_ranks(python, "tests.training.tiny.tiny_steps", [str(tmp_path / name)], tmp_path, count=count)
    assert dict(shown(tmp_path / "together")) == pytest.approx(dict(shown(tmp_path / "alone")))
    alone, together = (
        load_file(tmp_path / name / "checkpoints" / f"checkpoint-{tiny_steps.STEPS}" / STATE_FILE)
        for name in ("alone", "together")
    )
    for name, tensor in together.items():
        torch.testing.assert_close(tensor, alone[name], atol=1e-5, rtol=1e-3, msg=name)


def test_a_process_without_a_launcher_takes_one_gpu_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would ask for one item per GPU and give them to DataParallel; an item is a batch already."""

    def see_three(args: TrainingArguments) -> torch.device:
        args.__dict__.setdefault("_n_gpu", 3)
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(see_three))
    assert TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=1).train_batch_size == 3
    args = batch_arguments(tmp_path, on_cpu=False, workers=0)
    assert args.train_batch_size == args.eval_batch_size == 1
    assert args.n_gpu == 1
