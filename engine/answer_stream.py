"""One answer while it is generated: admission, prompt, then partial answers; it can be closed at any time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.admission import Admission, QueueEntry
from engine.answer_text import AnswerText
from engine.batching.generation_loop import GenerationLoop, LoopStopped, Ticket
from engine.context import Prompt
from engine.first_answer import FirstAnswer, Stopwatch
from engine.image_tokens import PinnedImages
from models.conversation import Answer, FinishReason, Sampling, Turn

if TYPE_CHECKING:
    from models.vision_language_model import VisionLanguageModel

_HEARTBEAT = 0.5  # seconds without output after which it is checked that the loop still runs
_QUEUE_POLL = 0.05  # seconds between two checks of the number in the queue


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A request in the generation loop, and the images pinned for it."""

    ticket: Ticket
    prompt: Prompt
    images: PinnedImages


class AnswerStream:
    """Iterator of answers so far. `close` works from any thread, also while another one waits in `next`.

    Nothing happens before the first `next`. While the request waits for admission, answers say only its number in the
    queue. A slow reader gets fewer, larger steps: an answer holds all tokens so far. Between two answers lie at least
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
        first_answer: FirstAnswer,
    ) -> None:
        self._model = model
        self._loop = loop
        self._admission = admission
        self._submit = submit
        self._turns = turns
        self._sampling = sampling
        self._interval = interval
        self._first_answer = first_answer
        self._watch = Stopwatch()
        self._text = AnswerText(model.tokenizer.decode, model.prompt_format)
        self._submission: Submission | None = None
        self._entry: QueueEntry | None = None  # of admission, while this is in the queue or admitted
        self._number = -1  # in the queue, as the last answer said
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
        """Cancel the request: it is out of the batch at the next step. A second call does nothing."""
        self._closed.set()
        with self._lock:
            submission, self._submission = self._submission, None
            entry, self._entry = self._entry, None
        if submission is not None:
            self._loop.finish(submission.ticket)
            submission.ticket.mailbox.close()
            submission.images.release()
        if entry is not None:
            self._admission.leave(entry)

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # In another thread, as the garbage collector may run while this one holds a lock that `close` takes.
        if getattr(self, "_entry", None) is not None:
            with contextlib.suppress(RuntimeError):  # at the program's end no thread can start; nothing need be freed
                threading.Thread(target=self.close, daemon=True).start()

    def _advance(self) -> Answer | None:
        if not self._started:
            self._started = time.monotonic()
            self._join()
        if self._number != 0:
            if number := self._wait_for_admission():
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
            self._watch.has_tokens(len(output.generated_tokens))
            self._text.update(output.generated_tokens)
            finish = self._finish_reason(output.is_finished(), output.generated_tokens)
            if finish is not None:
                self._text.finish()
            if finish is not None or self._text.text != before:
                self._shown = time.monotonic()
                return self._answer(submission, finish)
        return None

    def _join(self) -> None:
        entry = self._admission.join()
        with self._lock:
            self._entry = entry
        if self._closed.is_set():  # before there was an entry, so that `close` did not find it
            self.close()

    def _wait_for_admission(self) -> int:
        """The number in the queue as soon as it has changed; 0 once admitted or closed."""
        while (entry := self._entry) is not None:
            number = self._admission.queue_number(entry)
            if number != self._number:
                self._number = number
                return number
            entry.wait(_QUEUE_POLL)
        return 0

    def _begin(self) -> None:
        """Prepare the prompt and submit it to the loop."""
        self._watch = Stopwatch()  # without the time in the queue
        submission = None if self._closed.is_set() else self._submit(self._turns, self._sampling)
        self._watch.is_prepared()
        with self._lock:
            self._submission = submission
        if self._closed.is_set():  # while the prompt was prepared, so that `close` did not find the submission
            self.close()

    def _check(self, submission: Submission) -> None:
        """Without output for a while: raise if the loop has ended, unless its last output has arrived just now."""
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

    def _answer(self, submission: Submission, finish: FinishReason | None) -> Answer:
        prompt = submission.prompt
        cut = (prompt.length_notice,) if finish == "length" and prompt.length_notice else ()
        if finish is not None:
            self._first_answer.say(
                self._watch,
                num_prompt_tokens=prompt.num_tokens,
                num_image_tokens=prompt.num_image_tokens,
                num_new_tokens=self._text.num_tokens,
            )
        return Answer(
            text=self._text.text,
            finish_reason=finish,
            dropped_turns=prompt.dropped_turns,
            num_prompt_tokens=prompt.num_tokens,
            num_image_tokens=prompt.num_image_tokens,
            num_cached_tokens=submission.ticket.mailbox.num_reused or 0,
            num_new_tokens=self._text.num_tokens,
            seconds=time.monotonic() - self._started,
            notices=(*prompt.notices, *cut),
        )
