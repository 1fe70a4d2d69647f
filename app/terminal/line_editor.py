"""Reading lines with history and completion, through readline where Python has it (not on Windows)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.terminal.commands import Completer

MOST_LINES = 1000  # of history


def history_file() -> Path:
    """Where questions are kept from one start to the next: in the user's state folder, for this user alone."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return folder / "minivlm-chat" / "history"


@contextmanager
def line_editor(completer: Completer, history: Path | None = None) -> Iterator[Callable[[str], str]]:
    """A function like `input` whose lines have a history and Tab. A history that can't be kept is none, silently."""
    try:
        import readline
    except ImportError:
        yield input
        return
    path = history or history_file()
    found: list[str] = []

    def complete(_: str, number: int) -> str | None:
        if number == 0:
            found[:] = completer.offers(readline.get_line_buffer()[: readline.get_endidx()], readline.get_begidx())
        return found[number] if number < len(found) else None

    def read(prompt: str) -> str:
        line = input(prompt)
        if line.strip():  # at once, not at the end: a program may be killed
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.touch(mode=0o600)
                readline.append_history_file(1, str(path))
        return line

    before = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
    readline.parse_and_bind("set enable-bracketed-paste on")  # several lines that are pasted are one question
    readline.set_history_length(MOST_LINES)
    with contextlib.suppress(OSError):
        readline.read_history_file(str(path))
        if readline.get_current_history_length() > MOST_LINES:
            readline.write_history_file(str(path))  # cut to its length
    try:
        yield read
    finally:
        readline.set_completer(before[0])
        readline.set_completer_delims(before[1])
