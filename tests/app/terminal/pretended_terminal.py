"""The terminal's chat with a scripted model, to be run with a terminal of its own; its argument is the history file."""

from __future__ import annotations

import sys
from pathlib import Path

from app.terminal.chat import Terminal
from app.terminal.commands import Completer
from app.terminal.line_editor import line_editor
from tests.app.terminal.fake_models import FakeModels
from tests.fakes import ScriptedModel

if __name__ == "__main__":
    endless = "word " * 10_000
    model = ScriptedModel(script=[endless], default=lambda turns: f"about <{turns[-1].text}>", delay=0.02)
    models = FakeModels(model)
    with line_editor(Completer(lambda: models.chat.info.tasks, models.names), Path(sys.argv[1])) as read:
        Terminal(models, read=read).run()
