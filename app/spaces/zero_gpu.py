"""On a ZeroGPU Space the model answers in a forked process, which has a GPU only while it answers.

The page, its conversations and the loaded model are in the first process, whose CUDA is a stand-in by the `spaces`
package. Each answer is a call of one function that the package decorates: it forks a worker for it, or takes one from
an earlier answer again. Only pickled values pass: the turns with their pictures, and answers so far.

A worker makes an engine of its own and keeps it, with all keys and values, for later answers; that engine has no
thread, as none may use the GPU between two calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from typing import Any

import gradio as gr
import torch

from engine.chat_engine import ChatEngine
from engine.chat_model import ChatModel, GeneratorStream, Stream
from engine.stats import EngineStats
from models.conversation import Answer, Sampling, Turn
from models.errors import Busy, MiniVLMError
from models.model_info import ModelInfo
from models.sampling_settings import check as check_sampling
from models.vision_language_model import VisionLanguageModel

Decorator = Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]  # `spaces.GPU`

# Seconds of a GPU that are asked for; a visitor's quota must have them left. What is not used is not counted.
_SECONDS_AT_LEAST = 20.0  # to move the weights, and for the prompt
_SECONDS_PER_TOKEN = 0.05
_SECONDS_AT_MOST = 120.0


def seconds_for(turns: Sequence[Turn], sampling: Sampling) -> int:
    """How long an answer may take."""
    del turns
    return round(min(_SECONDS_AT_MOST, _SECONDS_AT_LEAST + _SECONDS_PER_TOKEN * sampling.max_new_tokens))


class ZeroGpuEngine(ChatModel):
    """Answers in workers that `gpu` forks. It must be made before the page is launched.

    `model` is on the CPU, and each worker moves its copy to the GPU. ZeroGPU pretends CUDA in the first process, from
    which it would hand weights to workers itself, but in the main thread alone, and models are loaded in others.

    Experts can't be traced here, as that is a second pass over the model.
    """

    def __init__(self, model: VisionLanguageModel, gpu: Decorator) -> None:
        self._model = model
        self._engine: ChatEngine | None = None  # of a worker; the first process has none
        self._num_active = 0
        self._lock = threading.Lock()

        def answer(turns: Sequence[Turn], sampling: Sampling) -> Iterator[Answer | MiniVLMError]:
            yield from self._in_worker(turns, sampling)

        self._answer = gpu(duration=seconds_for)(answer)

    @property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        return replace(self._model.info, has_experts=False)

    def neutralise(self, text: str) -> str:
        """User text with every control token of the model broken."""
        return self._model.prompt_format.neutralise(text)

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> Stream:
        """Answers so far. Raises Busy at a `next` for what ZeroGPU says: no quota, no GPU, a worker that ended."""
        return GeneratorStream(self._answers(tuple(turns), check_sampling(sampling)))

    def stats(self) -> EngineStats:
        """What is known here; a worker's counters stay in it."""
        return EngineStats(**{counter.name: 0 for counter in fields(EngineStats)} | {"active": self._num_active})

    def __enter__(self) -> ZeroGpuEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _answers(self, turns: Sequence[Turn], sampling: Sampling) -> Generator[Answer]:
        try:
            with self._counted(), closing(self._answer(turns, sampling)) as answers:
                for answer in answers:
                    if isinstance(answer, MiniVLMError):
                        raise answer
                    yield answer
        except gr.Error as error:
            raise Busy(f"{getattr(error, 'title', 'ZeroGPU')}: {error.message}") from error

    def _in_worker(self, turns: Sequence[Turn], sampling: Sampling) -> Iterator[Answer | MiniVLMError]:
        """An error that the user can mend is a value: of an exception only the class's name would arrive."""
        try:
            if self._engine is None:
                if torch.cuda.is_available():
                    self._model.to("cuda")
                self._engine = ChatEngine(self._model, in_caller=True).start()
            with self._engine.stream(turns, sampling) as answers:
                yield from answers
        except MiniVLMError as error:
            yield error

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._num_active += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_active -= 1
