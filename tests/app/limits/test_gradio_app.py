"""What the layer of limits sees of gradio's sessions."""

from __future__ import annotations

import threading
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from app.chat.answering import Rival
from app.limits.gradio_app import GradioApp
from app.page.page_state import PageState
from tests.app.helpers import picture
from tests.fakes import ScriptedModel


def test_a_question_with_two_answers_counts_twice() -> None:
    page = PageState()
    models = [ScriptedModel(gate=threading.Semaphore(0)) for _ in range(2)]
    queue = SimpleNamespace(event_ids_to_events={"e": 1}, pending_event_ids_session=defaultdict(set, mine={"e"}))
    holder = SimpleNamespace(session_data={"mine": SimpleNamespace(state_data={1: page, 2: "a value"})})
    blocks: Any = SimpleNamespace(_queue=queue, state_holder=holder)
    app: Any = SimpleNamespace(get_blocks=lambda: blocks)
    gradio = GradioApp(app)
    assert (gradio.num_unanswered("mine"), gradio.num_unanswered("another")) == (1, 0)
    page.session.begin(models[0], "what?", [picture()], rival=Rival(model=models[1]))
    assert gradio.num_unanswered("mine") == 2
    page.stop()
    assert gradio.num_unanswered("mine") == 1
    for model in models:
        model.open_gate()
