"""Text and bytes made up at random, and how each case is judged."""

from __future__ import annotations

import os
import random
import string
from collections.abc import Callable
from pathlib import Path

import pytest

from app.chat.decoding.decode import DecodeError
from app.limits.refusal import Refused
from models.errors import MiniVLMError

Target = Callable[[random.Random, Path], None]

SEED = int(os.environ.get("FUZZ_SEED", "1"))
LONGEST_LINE = 5000  # characters of what somebody is told

PIECES = [
    *"[]{}<>\"'\\,:;.-+ \n\t\0\x85\u2028\ufeff\u202e\xa0é😀",
    "\ud800",
    "<p>",
    "</p>",
    "{<1><2><3><4>}",
    "<delim>",
]
PIECES += [
    "[identify]",
    "[Detection]",
    "&a",
    "*a",
    "!!int x",
    "!!python/object:os.system",
    "2023-02-30",
    "~nobody/x",
    "../",
]
PIECES += [
    "1" * 5000,
    "[" * 2000,
    "x" * 300,
    "NaN",
    "1e999",
    "null",
    "true",
    "/etc/passwd",
    "%2e",
    "http://",
    "[::1",
    "\r\n",
    "=",
    "a.b=",
]


def made_up(rng: random.Random) -> str:
    """Text of pieces that mean something somewhere, and of letters."""
    parts = [
        rng.choice(PIECES) if rng.random() < 0.7 else rng.choice(string.printable) for _ in range(rng.randrange(30))
    ]
    return "".join(parts) * rng.choice([1, 1, 1, 50])


def mutated(rng: random.Random, content: bytes) -> bytes:
    """The content with some bytes changed, cut out, repeated or put in."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 2, 8])):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.choice([0, 1, 16])] = rng.choice([b"", rng.randbytes(4), bytes(data[:20]), b"\0"])
    return bytes(data)


def run(target: Target, folder: Path, *, usual: int) -> None:
    """Every case must be understood or refused in one line: `usual` of them, or FUZZ_CASES."""
    for number in range(int(os.environ.get("FUZZ_CASES", usual))):
        rng = random.Random(f"{SEED} {number}")
        where = f"{target.__name__}, FUZZ_SEED={SEED}, case {number}"
        try:
            target(rng, folder)
        except (MiniVLMError, Refused, DecodeError) as error:
            if len(str(error)) > LONGEST_LINE or "\n" in str(error):
                pytest.fail(f"{where}: not one line: {str(error)[:300]!r} ({len(str(error))} characters)")
        except Exception as error:
            pytest.fail(f"{where}: {type(error).__name__}: {str(error)[:300]}")
