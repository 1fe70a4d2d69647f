"""A ChatModel that answers through transformers' `generate`: with beams and prompt lookup, which the engine lacks."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import replace
from queue import SimpleQueue

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from engine.answer_text import AnswerText
from engine.chat_model import ChatModel, GeneratorStream
from engine.context import Prompt, check_turns, drop_oldest, fit_prompt
from engine.generate import Generated, generate
from engine.packed_weights import pack_weights
from models.conversation import Answer, Sampling, Turn
from models.model_info import ModelInfo
from models.sampling_settings import check
from models.vision_language_model import VisionLanguageModel

_Found = str | Generated | BaseException  # the text so far, and how it ended


class _TextQueue(BaseStreamer):
    """Puts the text of an answer into a queue while its ids come."""

    def __init__(self, model: VisionLanguageModel, found: SimpleQueue[_Found]) -> None:
        self._text = AnswerText(model.tokenizer.decode, model.prompt_format)
        self._found = found
        self._ids: list[int] | None = None

    def put(self, value: Tensor) -> None:
        """The prompt's ids first, then each id of the answer."""
        if self._ids is None:
            self._ids = []
            return
        self._ids += value.flatten().tolist()
        self._text.update(self._ids)
        self._found.put(self._text.text)

    def end(self) -> None:
        """No more ids: what comes next is the whole answer."""


class GeneratingStream(GeneratorStream):
    """An answer of `generate`, which ends at its next step once this is closed."""

    def __init__(self, answers: Generator[Answer], stopped: threading.Event) -> None:
        super().__init__(answers)
        self._stopped = stopped

    def close(self) -> None:
        """See Stream."""
        self._stopped.set()
        super().close()


class GeneratingModel(ChatModel):
    """The model as a ChatModel that answers through `generate`, one question at a time, each in a thread of its own.

    With beams there is no answer before the final one. The model is for inference alone from then on.
    """

    def __init__(self, model: VisionLanguageModel, *, num_beams: int = 1, prompt_lookup: int = 0) -> None:
        pack_weights(model)
        self._model = model
        self._num_beams = num_beams
        self._prompt_lookup = prompt_lookup

    @property
    def info(self) -> ModelInfo:
        """Facts about the model; experts can't be traced here."""
        return replace(self._model.info, has_experts=False)

    def neutralise(self, text: str) -> str:
        """User text with every control token of the model broken."""
        return self._model.prompt_format.neutralise(text)

    def stream(self, turns: Sequence[Turn], sampling: Sampling) -> GeneratingStream:
        """The next answer. Whole oldest turns go where the conversation must be shorter, and a notice says so."""
        stopped = threading.Event()
        return GeneratingStream(self._answer(turns, sampling, stopped), stopped)

    def _answer(self, turns: Sequence[Turn], sampling: Sampling, stopped: threading.Event) -> Generator[Answer]:
        model, sampling = self._model, check(sampling)
        check_turns(model, turns)
        prompt = fit_prompt(model, turns, sampling.max_new_tokens)
        kept, _ = drop_oldest(turns, prompt.dropped_turns)
        found: SimpleQueue[_Found] = SimpleQueue()

        def run() -> None:
            try:
                (whole,) = generate(
                    model,
                    [kept],
                    replace(sampling, max_new_tokens=prompt.max_new_tokens),
                    num_beams=self._num_beams,
                    prompt_lookup=self._prompt_lookup,
                    streamer=_TextQueue(model, found) if self._num_beams == 1 else None,
                    stopped=stopped,
                )
                found.put(whole)
            except BaseException as error:  # raised by the thread that reads
                found.put(error)

        thread = threading.Thread(target=run, name="generate", daemon=True)
        thread.start()
        try:
            shown = ""
            while isinstance(text := found.get(), str):
                if text != shown and not stopped.is_set():
                    shown = text
                    yield Answer(text=text)
            if isinstance(text, BaseException):
                raise text
            if not stopped.is_set():
                yield self._final(text, prompt)
        finally:
            stopped.set()
            thread.join()

    def _final(self, found: Generated, prompt: Prompt) -> Answer:
        model = self._model
        text = model.tokenizer.decode(found.ids)
        has_ended = found.ids[-1] in model.eos_token_ids or model.prompt_format.stopped(text)
        cut = () if has_ended or prompt.length_notice is None else (prompt.length_notice,)
        return Answer(
            text=found.text,
            finish_reason="stop" if has_ended else "length",
            dropped_turns=prompt.dropped_turns,
            num_new_tokens=len(found.ids),
            notices=(*prompt.notices, *cut),
        )
