"""Train the bundled tiny checkpoints from nothing: `python -m training.tiny.train_tiny [--only minigpt_v2 …]`.

Every stage leaves its state in the work folder; a stage that is finished there is not repeated, and a language stage
that broke off goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from training.tiny.mini_gemini import MiniGemini
from training.tiny.minigpt import MiniGPT4, MiniGPTv2
from training.tiny.tinygpt_v import TinyGPTV

FAMILIES = ("minigpt_v2", "minigpt4", "tinygpt_v", "mini_gemini")
"""In the order in which they are trained: the later ones start from towers and decoders of the earlier ones."""


def train(family: str, work: Path, output: Path) -> None:
    """Train one family to its end and write it to `output`/tiny_<family>."""
    folder = output / f"tiny_{family}"
    if family == "minigpt_v2":
        minigpt_v2 = MiniGPTv2(work)
        minigpt_v2.export(minigpt_v2.train(), folder)
    elif family == "minigpt4":
        minigpt4 = MiniGPT4(work)
        minigpt4.export(minigpt4.train(MiniGPTv2(work).path), folder)
    elif family == "tinygpt_v":
        tinygpt_v = TinyGPTV(work)
        tinygpt_v.export(folder, tinygpt_v.train_stage_4(MiniGPT4(work).path), tinygpt_v.train_stage_3())
    else:
        mini_gemini = MiniGemini(work)
        mini_gemini.pretrain()
        mini_gemini.export(mini_gemini.train(MiniGPTv2(work).path), folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.tiny.train_tiny", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=FAMILIES, nargs="+", default=FAMILIES, help="needs the states of those before"
    )
    parser.add_argument("--output", type=Path, default=Path("checkpoints"), help="where tiny_*/ are written")
    parser.add_argument("--work-dir", type=Path, default=Path(".training"), help="states of the stages")
    parser.add_argument("--threads", type=int, default=1, help="the models are small: more threads gain little")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        if family in options.only:
            train(family, options.work_dir, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
