"""Two steps of a bundled model's stage, for launchers: `python -m tests.training.tiny.tiny_steps FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import PartialState  # type: ignore[import-untyped]

from models.tokenizers.sentencepiece import SentencePieceTokenizer
from tests.training.tiny.small_networks import TOKENIZER, answering

STEPS = 2


def main(folder: Path) -> None:
    """Leaves checkpoints and logs in the folder."""
    PartialState(cpu=True)
    torch.set_num_threads(1)
    answering(SentencePieceTokenizer(TOKENIZER), STEPS).run(folder)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
