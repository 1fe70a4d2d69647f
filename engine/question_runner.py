"""Many questions to one model, several at a time, with the answers in the order of the questions.

Files of questions (`--ask`) and evaluation are fed through here. Questions are read only as places become free, so a
file of a million lines takes no more memory than one of a hundred.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from engine.chat_model import ChatModel, Stream
from models.conversation import Answer, Sampling, Turn
from models.errors import MiniVLMError

Question = TypeVar("Question")
TurnsAndSampling = tuple[Sequence[Turn], Sampling]


def answered(found: Iterable[tuple[Question, Answer | MiniVLMError]]) -> Iterator[tuple[Question, Answer]]:
    """The pairs of `QuestionRunner.run`, for callers that need every answer: raises the first error among them."""
    for question, answer in found:
        if isinstance(answer, MiniVLMError):
            raise answer
        yield question, answer


class QuestionRunner(Generic[Question]):
    """Asks `model` what `prepare` makes of each question, `at_once` at a time.

    `prepare` runs in the thread that asks, so reading pictures goes on while others are answered.
    """

    def __init__(self, model: ChatModel, prepare: Callable[[Question], TurnsAndSampling], *, at_once: int) -> None:
        self._model = model
        self._prepare = prepare
        self._at_once = at_once
        self._streams: set[Stream] = set()
        self._lock = threading.Lock()
        self._is_over = False

    def run(self, questions: Iterable[Question]) -> Generator[tuple[Question, Answer | MiniVLMError]]:
        """Each question with its final answer, or with what is wrong with it; other errors are raised.

        At most twice `at_once` questions are under way or answered and not yet read. Closing this iterator ends the
        answers that are being written.
        """
        waiting: deque[tuple[Question, Future[Answer | MiniVLMError]]] = deque()
        pool = ThreadPoolExecutor(self._at_once, thread_name_prefix="question")
        try:
            for question in questions:
                waiting.append((question, pool.submit(self._answer, question)))
                if len(waiting) == 2 * self._at_once:
                    first, found = waiting.popleft()
                    yield first, found.result()
            while waiting:
                first, found = waiting.popleft()
                yield first, found.result()
        finally:
            self._end()
            pool.shutdown(cancel_futures=True)

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
            streams = list(self._streams)
        for stream in streams:
            stream.close()

    def _answer(self, question: Question) -> Answer | MiniVLMError:
        try:
            stream = self._model.stream(*self._prepare(question))
            with self._lock:
                self._streams.add(stream)
            try:
                last = Answer(text="", finish_reason="cancelled")
                for answer in stream:
                    last = answer
                    if self._is_over:  # also where this stream began too late for `_end` to find it
                        break
                return last
            finally:
                stream.close()
                with self._lock:
                    self._streams.discard(stream)
        except MiniVLMError as error:
            return error
