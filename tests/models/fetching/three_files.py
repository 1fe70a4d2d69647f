"""A configuration of three files that a local hub has, and the command line that fetches them."""

from __future__ import annotations

import random

import pytest

from models.__main__ import main

BYTES = random.Random(1).randbytes
LLM = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.model": BYTES(3_000),
    "model-00001-of-00002.safetensors": BYTES(50_000),
    "model-00002-of-00002.safetensors": BYTES(40_000),
    "pytorch_model.bin": BYTES(90_000),
    "README.md": b"not needed",
}
EVA, STAGE = BYTES(30_000), BYTES(20_000)
SPACE = "spaces/someone/space/stage.pth"
NEEDED = [name for name in LLM if name not in ("pytorch_model.bin", "README.md")]


def run(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Status, stdout and the last line of stderr."""
    status = main(argv)
    output = capsys.readouterr()
    error = output.err.strip().splitlines()[-1] if output.err.strip() else ""
    return status, output.out, error
