"""One replica: a model and its engine in a process of its own, on this machine or another."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.api.openai.answer_feed import AnswerEnded, AnswerFeed
from engine.asker import ASKER, Asker
from engine.chat_engine import ChatEngine
from engine.chat_model import ChatModel
from engine.stats import EngineStats
from models.conversation import Answer, Sampling, Turn
from models.loader import load_model
from models.model_info import ModelInfo
from models.prompt import PromptFormat


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Which configuration a replica loads, and how: as the options of the same names say."""

    config: str
    device: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What whoever asks a replica must know of its model; the same for all replicas of a deployment."""

    info: ModelInfo
    prompt_format: PromptFormat
    created: int = field(default_factory=lambda: int(time.time()))


class Replica:
    """A loaded model that has answered once: ready from its first moment. Raises MiniVLMError where it can't be."""

    def __init__(self, loading: Loading) -> None:
        model = load_model(
            Path(loading.config),
            device=loading.device,
            dtype=loading.dtype,
            quantization=loading.quantization,
            overrides=loading.overrides,
        )
        self._name = uuid.uuid4().hex[:8]
        self._engine = ChatEngine(model).start()
        self._chat: ChatModel = self._engine
        self._facts = Facts(info=model.info, prompt_format=model.prompt_format)
        for _ in self._chat.stream([Turn("user", "Hello")], Sampling(temperature=0, max_new_tokens=1)):
            pass

    async def facts(self) -> Facts:
        """See Facts."""
        return self._facts

    async def stats(self) -> tuple[str, EngineStats]:
        """Which replica this is, and its engine's counters."""
        return self._name, self._engine.stats()

    async def answer(self, turns: Sequence[Turn], sampling: Sampling, asker: Asker) -> AsyncIterator[Answer]:
        """The newest answer whenever there is one. Who stops reading frees the place among the running answers."""
        ASKER.set(asker)
        feed = AnswerFeed(self._chat, tuple(turns), sampling, on_close=lambda: None)
        try:
            while True:
                answer = await feed.next()
                if answer is None:
                    continue
                yield answer
                if answer.finish_reason is not None:
                    return
        except AnswerEnded:
            return
        finally:
            feed.close()

    def __del__(self) -> None:
        if engine := getattr(self, "_engine", None):
            engine.close()
