"""Train the bundled tiny checkpoints from nothing: `python -m training.tiny.train_tiny [--only minigpt_v2 …]`.

Every stage leaves its state in the work folder; a stage that is finished there is not repeated, and one that broke off
goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from models.errors import MiniVLMError
from training.tiny.mini_gemini import MiniGemini
from training.tiny.minigpt import MiniGPTv2
from training.tiny.minigpt4 import MiniGPT4
from training.tiny.moe_llava import MoELlava
from training.tiny.tinygpt_v import TinyGPTV


def train_minigpt_v2(work: Path, folder: Path) -> None:
    """From nothing; makes the tokenizer, tower and decoder that the others begin with."""
    family = MiniGPTv2(work)
    family.export(family.train(), folder)


def train_minigpt4(work: Path, folder: Path) -> None:
    """From MiniGPT-v2's tower and decoder."""
    family = MiniGPT4(work)
    family.export(family.train(*MiniGPTv2(work).polished()), folder)


def train_tinygpt_v(work: Path, folder: Path) -> None:
    """From MiniGPT-4's tower and Q-Former: stage 4, then stage 3."""
    family = TinyGPTV(work)
    family.export(folder, family.train_stage_4(MiniGPT4(work).query_paths[-1]), family.train_stage_3())


def train_moe_llava(work: Path, folder: Path) -> None:
    """From MiniGPT-v2's tower and decoder: a dense model, then one with experts."""
    family = MoELlava(work)
    family.train_dense(*MiniGPTv2(work).polished())
    family.export(family.train_sparse(), folder)


def train_mini_gemini(work: Path, folder: Path) -> None:
    """From MoE-LLaVA's dense model."""
    family = MiniGemini(work)
    family.export(family.train(*MoELlava(work).finished_dense()), folder)


FAMILIES = {
    "minigpt_v2": train_minigpt_v2,
    "minigpt4": train_minigpt4,
    "tinygpt_v": train_tinygpt_v,
    "moe_llava": train_moe_llava,
    "mini_gemini": train_mini_gemini,
}
"""In the order in which they are trained, as later ones begin with parts of earlier ones; each gives tiny_<name>/."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.tiny.train_tiny", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=FAMILIES, nargs="+", default=list(FAMILIES), help="needs the states of those before"
    )
    parser.add_argument("--output", type=Path, default=Path("checkpoints"), help="where tiny_*/ are written")
    parser.add_argument("--work-dir", type=Path, default=Path(".training"), help="states of the stages")
    parser.add_argument("--threads", type=int, default=1, help="two take 0.7 times as long; the models are small")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    try:
        for family, train in FAMILIES.items():
            if family in options.only:
                train(options.work_dir, options.output / f"tiny_{family}")
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
