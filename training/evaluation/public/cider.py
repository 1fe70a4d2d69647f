"""CIDEr (arXiv:1411.5726) through pycocoevalcap, with the official tokenizer, which is a Java program."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec

from models.errors import ConfigError


def check_installed() -> None:
    """Raises ConfigError if something that `score` needs is not there; better before hours of answering than after."""
    if shutil.which("java") is None:
        raise ConfigError(
            "CIDEr needs Java for the official tokenizer; install it, for example: apt install default-jre"
        )
    if find_spec("pycocoevalcap") is None:
        raise ConfigError('CIDEr needs pycocoevalcap, which is not installed; run: pip install -e ".[train]"')


def score(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr of captions against the references of each; 1.0 is what tables print as 100. Raises ConfigError."""
    check_installed()
    from pycocoevalcap.cider.cider import Cider  # type: ignore[import-untyped]
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer  # type: ignore[import-untyped]

    tokenizer = PTBTokenizer()
    ours = tokenizer.tokenize({n: [{"caption": text.replace("\n", " ")}] for n, text in enumerate(captions)})
    theirs = tokenizer.tokenize({n: [{"caption": text} for text in texts] for n, texts in enumerate(references)})
    value, _ = Cider().compute_score(theirs, ours)
    return float(value)
