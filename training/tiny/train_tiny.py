"""Train the bundled tiny checkpoints from nothing: `python -m training.tiny.train_tiny [--only minigpt_v2 …]`.

Every stage leaves its state in the work folder; a stage that is finished there is not repeated, and one that broke off
goes on. A family begins with the released files of the one before it, so each can be trained by itself; MiniGPT-v2's
last stage comes after all of them. With two cores: `torchrun --nproc-per-node 2 -m training.tiny.train_tiny`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState  # type: ignore[import-untyped]

from models.command_line import place
from models.errors import MiniVLMError
from training.tiny.families.mini_gemini import MiniGemini
from training.tiny.families.minigpt4 import MiniGPT4, finished_minigpt4
from training.tiny.families.minigpt_v2 import MiniGPTv2, finished_minigpt_v2, finished_tokenizer
from training.tiny.families.moe_llava import MoELlava, finished_moe_llava
from training.tiny.families.tinygpt_v import TinyGPTV

Export = Callable[[Path], None]
"""Writes a trained family's released files into a folder."""


def train_minigpt_v2(work: Path, finished: Path) -> Export:
    """From nothing."""
    del finished
    family = MiniGPTv2(work)
    return partial(family.export, family.train())


def train_minigpt4(work: Path, finished: Path) -> Export:
    """From MiniGPT-v2's tower and decoder."""
    family = MiniGPT4(work, _tokenizer(finished))
    return partial(family.export, family.train(finished_minigpt_v2(finished / "tiny_minigpt_v2")))


def train_tinygpt_v(work: Path, finished: Path) -> Export:
    """From MiniGPT-4's tower and Q-Former: stage 4, then stage 3."""
    family = TinyGPTV(work)
    stage_4 = family.train_stage_4(finished_minigpt4(finished / "tiny_minigpt4"))
    return partial(family.export, stage_4, family.train_stage_3())


def train_moe_llava(work: Path, finished: Path) -> Export:
    """From MiniGPT-v2's tower and decoder: a dense model, then one with experts."""
    family = MoELlava(work, _tokenizer(finished))
    family.train_dense(finished_minigpt_v2(finished / "tiny_minigpt_v2"))
    return partial(family.export, family.train_sparse())


def train_mini_gemini(work: Path, finished: Path) -> Export:
    """From MoE-LLaVA's tower, projection and decoder."""
    family = MiniGemini(work, _tokenizer(finished))
    return partial(family.export, family.train(finished_moe_llava(finished / "tiny_moe_llava")))


def refine_minigpt_v2(work: Path, finished: Path) -> Export:
    """MiniGPT-v2's last stage, which no other family begins with."""
    del finished
    family = MiniGPTv2(work)
    return partial(family.export, family.refine())


def _tokenizer(finished: Path) -> Path:
    return finished_tokenizer(finished / "tiny_minigpt_v2")


FAMILIES = {
    "minigpt_v2": train_minigpt_v2,
    "minigpt4": train_minigpt4,
    "tinygpt_v": train_tinygpt_v,
    "moe_llava": train_moe_llava,
    "mini_gemini": train_mini_gemini,
    "minigpt_v2_refined": refine_minigpt_v2,
}
"""In the order in which they are trained, as later ones begin with parts of earlier ones."""


def folder_of(family: str) -> str:
    """The folder that holds a family's released files: `minigpt_v2_refined` writes those of `minigpt_v2` anew."""
    return f"tiny_{family.removesuffix('_refined')}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.tiny.train_tiny", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=FAMILIES, nargs="+", default=list(FAMILIES), help="others are taken as they are"
    )
    parser.add_argument("--output", type=place, default=Path("checkpoints"), help="where tiny_*/ are written")
    parser.add_argument("--work-dir", type=place, default=Path(".training"), help="states of the stages")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)  # the models are small; a second core is better used by a second process
    process = PartialState(cpu=not torch.cuda.is_available())
    options.work_dir.mkdir(parents=True, exist_ok=True)
    try:
        for family, train in FAMILIES.items():
            if family in options.only:
                export = train(options.work_dir, options.output)
                if process.is_main_process:
                    export(options.output / folder_of(family))
                process.wait_for_everyone()
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if torch.distributed.is_initialized():  # left open, its threads now and then abort the process as it ends
        torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
