"""A ChatModel whose answers come from the replicas of a deployment."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError

from app.cluster.affinity import session_of
from app.cluster.facts import Facts
from engine.asker import ASKER, Asker
from engine.chat_model import ChatModel, Stream
from models.conversation import Answer, Sampling, Turn
from models.errors import Busy, MiniVLMError, ServerFailed
from models.model_info import ModelInfo

DIED = "The replica that was answering has ended; ask again, others go on."


class ReplicatedModel(ChatModel):
    """The model of a deployment, through its handle."""

    def __init__(self, handle: Any, facts: Facts) -> None:
        self._handle = handle
        self._facts = facts

    @property
    def info(self) -> ModelInfo:
        """Facts about the model; its device is the replicas', and which experts were chosen is not asked of those."""
        return replace(self._facts.info, has_experts=False)

    def neutralise(self, text: str) -> str:
        """User text with every control token of the model broken."""
        return self._facts.prompt_format.neutralise(text)

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
        """The answer, by the replica that has the conversation's keys and values, if it is there."""
        answering = self._handle.options(method_name="answer", stream=True, session_id=session_of(turns))
        return ReplicaStream(answering, tuple(turns), sampling, ASKER.get())


class ReplicaStream(Stream):
    """One answer by a replica. If that dies before it has said a word, another one is asked, once."""

    def __init__(self, answering: Any, turns: tuple[Turn, ...], sampling: Sampling, asker: Asker) -> None:
        self._ask = lambda: answering.remote(turns, sampling, asker)
        self._answers: Any = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._has_said = False
        self._tries = 2

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Answer:
        while True:
            answers = self._begun()
            try:
                answer: Answer = next(answers)
            except StopIteration:
                raise
            except Exception as error:
                if self._is_closed or isinstance(error, RequestCancelledError):
                    raise StopIteration from None
                if not self._may_try_again(error):
                    raise explained(error) from error
                continue
            self._has_said = self._has_said or bool(answer.text)
            return answer

    def close(self) -> None:
        """See Stream."""
        with self._lock:
            self._is_closed = True
            if self._answers is not None:
                self._answers.cancel()

    def _begun(self) -> Any:
        with self._lock:
            if self._is_closed:
                raise StopIteration
            if self._answers is None:
                self._tries -= 1
                self._answers = self._ask()
            return self._answers

    def _may_try_again(self, error: Exception) -> bool:
        if not isinstance(error, RayActorError) or self._has_said or self._tries == 0:
            return False
        with self._lock:
            self._answers = None
        return True


def explained(error: Exception) -> Exception:
    """What was raised on the way to a replica, or by it, as the error that the program's own engine would raise."""
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
    if isinstance(cause, MiniVLMError):
        return cause
    if isinstance(error, MiniVLMError):
        return type(error)(str(error)) if isinstance(error, RayTaskError) else error
    if isinstance(error, BackPressureError):
        return Busy("All replicas have as many questions waiting as they take; try again in a moment.")
    if isinstance(error, RayActorError):
        return ServerFailed(DIED)
    if isinstance(error, RayServeException | RayError):
        return ServerFailed(f"The cluster can't answer now ({type(error).__name__}); ask again in a moment.")
    return error
