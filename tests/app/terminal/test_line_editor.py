"""Keys in a real terminal: Ctrl-C, history, Tab, pasted lines, a new size, Ctrl-D."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import psutil
import pytest

from app.terminal.line_editor import history_file
from tests.paths import ROOT


class Keyboard:
    """A program in a terminal of its own, and what it has shown."""

    def __init__(self, *command: str) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(24, 80)
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"},
            preexec_fn=_as_a_login_does,
            start_new_session=True,
        )
        os.close(theirs)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, wanted: str) -> str:
        """What is shown up to and with this text; the time limit only ends a failing test."""
        shown, end = "", time.monotonic() + 60
        while wanted not in shown:
            assert select.select([self._ours], [], [], max(0, end - time.monotonic()))[0], (
                f"{wanted!r} not in {shown!r}"
            )
            shown += os.read(self._ours, 1).decode(errors="replace")
        return shown

    def press_ctrl_c(self) -> None:
        """As a person does, when what was typed before is on the screen and the program waits for more.

        A signal between a key that was read and the wait for the next is seen only with that next key (CPython's
        readline): nobody's fingers are as fast, but one write of this test is.
        """
        process = psutil.Process(self.process.pid)
        while process.status() != psutil.STATUS_SLEEPING:
            time.sleep(0.01)
        self.type("\x03")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def _as_a_login_does() -> None:
    """The terminal is the program's own, and Ctrl-C reaches it even if these tests were started in the background."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_keys_do_what_they_do_in_a_shell(tmp_path: Path) -> None:
    history = tmp_path / "state" / "history"
    keyboard = Keyboard(sys.executable, "-m", "tests.app.terminal.pretended_terminal", str(history))
    try:
        keyboard.until("/quit ends.")
        keyboard.until("> ")
        keyboard.type("tell me a lot\r")
        keyboard.until("word word word")
        keyboard.resize(40, 30)
        keyboard.type("\x03")
        keyboard.until("(stopped)")
        keyboard.until("> ")
        keyboard.type("\x1b[A!\r")  # up, and something more
        keyboard.until("about <tell me a lot!>")
        keyboard.until("> ")
        keyboard.type("never sent")
        keyboard.until("never sent")
        keyboard.press_ctrl_c()  # the program and the chat go on
        keyboard.until("> ")
        keyboard.type("\x1b[200~first line\nsecond line\x1b[201~\r")
        keyboard.until("about <first line\r\nsecond line>")
        keyboard.until("> ")
        keyboard.type("/ima\tgone.pn\r")
        keyboard.until("error: image gone.pn can't be read")
        keyboard.until("> ")
        keyboard.type("\x04")
        assert keyboard.process.wait(60) == 0
    finally:
        keyboard.close()
    kept = history.read_text()
    assert kept.startswith("tell me a lot\ntell me a lot!\n")
    assert "never sent" not in kept
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_the_history_is_in_the_users_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "minivlm-chat" / "history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file() == tmp_path / ".local" / "state" / "minivlm-chat" / "history"
