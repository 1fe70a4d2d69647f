"""What the tests of a model elsewhere ask."""

from __future__ import annotations

from app.remote.remote_model import RemoteModel
from models.conversation import Answer, Sampling, Turn
from tests.app.helpers import scene

SAMPLING = Sampling(temperature=0.25, top_p=0.5, max_new_tokens=77, repetition_penalty=1.0, seed=5)
QUESTION = Turn("user", "What is it?", (scene(),))


def ask(model: RemoteModel, *turns: Turn, sampling: Sampling = SAMPLING) -> Answer:
    """The final answer."""
    *_, last = model.stream(turns or (QUESTION,), sampling)
    return last
