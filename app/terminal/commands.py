"""The commands of a terminal chat, and what Tab offers for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.tasks import Task

HELP = {
    "/image": ("FILE", "shows the model an image"),
    "/task": ("NAME", "what the next questions are about; without a name, which there are"),
    "/model": ("NAME", "goes on with another configuration; without a name, which this is"),
    "/new": ("", "begins a new chat"),
    "/save": ("[FILE]", "saves the chat as JSON, which the page opens"),
    "/help": ("", "shows this"),
    "/quit": ("", "ends"),
}
SHORT_HELP = "/image FILE shows the model an image, /help lists all commands, /quit ends."


def help_lines() -> list[str]:
    """One line for each command, and one for the keys."""
    lines = [f"{f'{name} {what}':<14} {does}" for name, (what, does) in HELP.items()]
    return [
        *lines,
        "Ctrl-C         stops an answer, or empties the line",
        "Tab            completes; up and down: history",
    ]


def task_names(tasks: Sequence[Task]) -> dict[str, Task]:
    """The tasks by the names that `/task` knows."""
    return {task.label.lower(): task for task in tasks}


@dataclass(frozen=True)
class Completer:
    """What Tab offers. `tasks` and `models` are asked each time, as the model may change."""

    tasks: Callable[[], Sequence[Task]]
    models: Callable[[], Sequence[str]]

    def offers(self, line: str, begin: int) -> list[str]:
        """What the word that begins at `begin` of the line may become; the line ends where the cursor is."""
        command, space, argument = line.partition(" ")
        if not space:
            identifiers = [task.identifier for task in self.tasks() if task.identifier]
            return [f"{word} " for word in [*HELP, *identifiers] if line and word.startswith(line)]
        if command not in HELP:
            return []
        skipped = begin - len(command) - 1  # of the argument: a file's name may have spaces
        return [found[skipped:] for found in self._arguments(command, argument)]

    def _arguments(self, command: str, argument: str) -> list[str]:
        if command in ("/image", "/save"):
            return files(argument)
        names = {"/task": task_names(self.tasks()), "/model": self.models()}.get(command, ())
        return [name for name in names if name.startswith(argument.lower())]


def files(beginning: str) -> list[str]:
    """Files and folders whose path begins so, as it is written; folders end with a slash."""
    written, _, name = beginning.rpartition("/")
    folder = f"{written}/" if "/" in beginning else ""
    try:
        found = sorted(Path(folder or ".").expanduser().iterdir())
    except (OSError, ValueError, RuntimeError):
        return []
    shown = [path for path in found if path.name.startswith(name) and (name or not path.name.startswith("."))]
    return [f"{folder}{path.name}{'/' * path.is_dir()}" for path in shown]
