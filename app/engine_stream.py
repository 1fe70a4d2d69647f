"""One answer on its way: an iterator that waits its turn, watches the generation loop, and can be closed any time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.decoding import AnswerText
from app.engine_loop import GenerationLoop, LoopStopped, Ticket
from app.engine_prompt import Prompt
from app.engine_queue import Admission
from models.conversation import Answer, FinishReason, Sampling, Turn
from models.parts.image_tokens import PinnedImages

if TYPE_CHECKING:
    from models.vision_language_model import VisionLanguageModel

_HEARTBEAT = 0.5  # seconds between two looks at whether the loop is alive
_QUEUE_POLL = 0.05  # seconds between two looks at the queue


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A prompt that the loop works on, and what to give back afterwards."""

    ticket: Ticket
    prompt: Prompt
    images: PinnedImages


class AnswerStream:
    """Iterator of answers so far. `close` works from any thread, also while another one waits in `next`.

    Nothing happens before the first `next`. While others are answered first, answers say only the number in the queue.
    The reader sets the pace: while it is busy, tokens gather, and come together. Between two answers lie at least
    `interval` seconds, except before the last.
    """

    def __init__(
        self,
        *,
        model: VisionLanguageModel,
        loop: GenerationLoop,
        admission: Admission,
        submit: Callable[[Sequence[Turn], Sampling], Submission],
        turns: Sequence[Turn],
        sampling: Sampling,
        interval: float,
    ) -> None:
        self._model = model
        self._loop = loop
        self._admission = admission
        self._submit = submit
        self._turns = turns
        self._sampling = sampling
        self._interval = interval
        self._text = AnswerText(model.tokenizer.decode, model.prompt_format)
        self._submission: Submission | None = None
        self._turn: threading.Event | None = None  # of the queue; set while there is a place
        self._number = -1  # in the queue, as it was told last
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._started = 0.0
        self._shown = 0.0

    def __iter__(self) -> AnswerStream:
        return self

    def __next__(self) -> Answer:
        if self._closed.is_set():
            raise StopIteration
        try:
            answer = self._advance()
        except BaseException:
            self.close()
            raise
        if answer is None:  # closed meanwhile
            raise StopIteration
        if answer.finish_reason is not None:
            self.close()
        return answer

    def close(self) -> None:
        """Stop: the model is free at its next step. A second call does nothing."""
        self._closed.set()
        with self._lock:
            submission, self._submission = self._submission, None
            turn, self._turn = self._turn, None
        if submission is not None:
            self._loop.finish(submission.ticket)
            submission.ticket.mailbox.close()
            submission.images.release()
        if turn is not None:
            self._admission.leave(turn)

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Not right here: the collector may run while this very thread holds one of the locks that `close` takes.
        if getattr(self, "_turn", None) is not None:
            with contextlib.suppress(RuntimeError):  # the program ends: no new threads, and nothing to free
                threading.Thread(target=self.close, daemon=True).start()

    def _advance(self) -> Answer | None:
        if not self._started:
            self._started = time.monotonic()
            self._join()
        if self._number != 0:
            if number := self._wait_for_place():
                return Answer(text="", queue_number=number)
            self._begin()
        while not self._closed.is_set():
            with self._lock:
                submission = self._submission
            if submission is None:
                break
            mailbox = submission.ticket.mailbox
            mailbox.wait_end(self._shown + self._interval - time.monotonic())
            output = mailbox.wait(self._text.num_tokens, _HEARTBEAT)
            if output is None:
                if not self._closed.is_set():
                    self._check(submission)
                continue
            if output.error is not None:
                self._loop.check(submission.ticket)
                raise LoopStopped("The model was shut down while it answered.")
            before = self._text.text
            self._text.update(output.generated_tokens)
            finish = self._finish_reason(output.is_finished(), output.generated_tokens)
            if finish is not None:
                self._text.finish()
            if finish is not None or self._text.text != before:
                self._shown = time.monotonic()
                return self._answer(submission.prompt, finish)
        return None

    def _join(self) -> None:
        turn = self._admission.join()
        with self._lock:
            self._turn = turn
        if self._closed.is_set():  # `close` found nothing to give back yet
            self.close()

    def _wait_for_place(self) -> int:
        """The number in the queue as soon as it is another than before; 0 for a place, or if this was closed."""
        while (turn := self._turn) is not None:
            number = self._admission.number(turn)
            if number != self._number:
                self._number = number
                return number
            turn.wait(_QUEUE_POLL)
        return 0

    def _begin(self) -> None:
        """Prepare the prompt and hand it to the loop."""
        submission = None if self._closed.is_set() else self._submit(self._turns, self._sampling)
        with self._lock:
            self._submission = submission
        if self._closed.is_set():  # while the prompt was prepared: `close` found nothing to give back yet
            self.close()

    def _check(self, submission: Submission) -> None:
        """Nothing came for a while: is the loop alive? Its last words may have arrived just now."""
        try:
            self._loop.check(submission.ticket)
        except LoopStopped:
            if submission.ticket.mailbox.wait(self._text.num_tokens, 0) is None:
                raise

    def _finish_reason(self, is_finished: bool, ids: Sequence[int]) -> FinishReason | None:
        if self._text.is_stopped:
            return "stop"
        if not is_finished:
            return None
        return "stop" if ids and ids[-1] in self._model.eos_token_ids else "length"

    def _answer(self, prompt: Prompt, finish: FinishReason | None) -> Answer:
        cut = (prompt.length_notice,) if finish == "length" and prompt.length_notice else ()
        return Answer(
            text=self._text.text,
            finish_reason=finish,
            dropped_turns=prompt.dropped_turns,
            num_prompt_tokens=prompt.num_tokens,
            num_new_tokens=self._text.num_tokens,
            seconds=time.monotonic() - self._started,
            notices=(*prompt.notices, *cut),
        )
