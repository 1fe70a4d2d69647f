"""What all command lines of the project share: errors of one line, and the version."""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]  # of the checkout
CONFIG_DIR = ROOT / "eval_configs"  # those that ship


def shown(path: Path) -> Path:
    """A path as people type it here."""
    place = path.absolute()
    return place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else path


def path_problem(path: Path) -> str:
    """Why nothing can be in this place, or nobody may look there; "" where one may, whether or not something is."""
    try:
        path.exists()
    except OSError as error:  # as a name that is too long
        return error.strerror or str(error)
    return ""


def place(text: str) -> Path:
    """A path of a command line, for `type=`: one that can't be is an error of one line."""
    path = Path(text)
    if problem := path_problem(path):
        raise argparse.ArgumentTypeError(f"{text} can't be used ({problem})")
    return path


def quoted(path: Path) -> str:
    """A path in a command that people copy into their shell."""
    return shlex.quote(str(path))


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Printing in the block ends quietly once whoever reads it has enough: `… | head`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's own flush fails as well


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as all errors of this program are."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def version() -> str:
    """The program's version, from pyproject.toml, which is the only place that holds it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean X?` for a word that is nearly one of the known ones, to be put behind an error; else nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f" Did you mean {found[0]}?" if found else ""
