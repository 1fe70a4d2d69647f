"""A stage of which a process is killed in the second step, the first time: `python -m … RECIPE`, under a launcher.

Beside the recipe `died` says that it was, and `begun` after how many steps each process began.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from training.batch_trainer import latest_checkpoint
from training.recipe import load_recipe
from training.train import run_stage


class Dies(TrainerCallback):
    """Ends the process of rank 1 as the system ends one that takes too much memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with (self._folder / "begun").open("a") as file:
            file.write(f"{state.global_step}\n")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        mark = self._folder / "died"
        if os.environ["RANK"] == "1" and state.global_step == 1 and not mark.exists():
            mark.touch()
            while latest_checkpoint(self._folder / "output") is None:  # rank 0 may still be writing it
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    run_stage(load_recipe(source), callbacks=[Dies(source.parent)])
