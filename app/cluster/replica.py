"""One replica: a model and its engine in a process of its own, on this machine or another."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from app.api.openai.answer_feed import AnswerEnded, AnswerFeed
from app.cluster.facts import Facts
from app.library.engine_loader import EngineLoader, LoadedEngine, LoadingOptions
from app.library.offers import describe
from engine.asker import ASKER, Asker
from engine.stats import EngineStats
from models.conversation import Answer, Sampling, Turn


class Replica:
    """A loaded model that has answered once: ready from its first moment. Raises MiniVLMError where it can't be.

    It is what one process would load of the configuration with these options, extras and all.
    """

    def __init__(self, config: str, options: LoadingOptions) -> None:
        path = Path(config)
        loaded = EngineLoader(options, report=print).load(describe(path, path.stem), lambda *_: None)
        assert isinstance(loaded, LoadedEngine), "application.py refuses servers elsewhere"
        self._loaded = loaded
        self._name = uuid.uuid4().hex[:8]
        self._facts = Facts(info=loaded.model.info, prompt_format=loaded.prompt_format, created=loaded.created)
        for _ in loaded.model.stream([Turn("user", "Hello")], Sampling(temperature=0, max_new_tokens=1)):
            pass

    async def facts(self) -> Facts:
        """See Facts."""
        return self._facts

    async def stats(self) -> tuple[str, EngineStats]:
        """Which replica this is, and its engine's counters."""
        return self._name, self._loaded.stats()

    async def answer(self, turns: Sequence[Turn], sampling: Sampling, asker: Asker) -> AsyncIterator[Answer]:
        """The newest answer whenever there is one. Who stops reading frees the place among the running answers."""
        ASKER.set(asker)
        feed = AnswerFeed(self._loaded.model, tuple(turns), sampling, on_close=lambda: None)
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
        if loaded := getattr(self, "_loaded", None):
            loaded.close()
