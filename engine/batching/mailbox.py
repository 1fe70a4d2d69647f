"""From the generation loop to the thread that reads an answer: a mailbox per request, with its newest output."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.requests import GenerationOutput

from engine.batching.request_sampler import NO_TOKEN
from models.errors import NotFinite


class Mailbox:
    """The newest output of one request, for one reader. The loop overwrites it and never waits.

    The reader's thread is woken only by output it waits for, as each wake-up takes Python's interpreter lock from the
    loop. `stops` says of an answer's ids whether the last one may complete a stop string. Such an id wakes the reader
    at once: the loop does not know stop strings and generates until the reader cancels the request.
    """

    def __init__(self, stops: Callable[[Sequence[int]], bool] | None = None) -> None:
        self.num_reused: int | None = None  # tokens of the prompt in the prefix cache, once that was searched
        self._changed = threading.Condition()
        self._stops = stops
        self._has_stopped = False
        self._output: GenerationOutput | None = None
        self._error: Exception | None = None
        self._is_closed = False
        self._wanted: float = 1  # number of ids the reader waits for; infinite while it waits for the end

    def put(self, output: GenerationOutput) -> None:
        """Replace the output; wake the reader if it waits for this."""
        with self._changed:
            self._output = output
            if self._stops is not None:
                self._has_stopped |= self._stops(output.generated_tokens)
            if self._has_news():
                self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Nothing more will come: the reader's next `wait` raises this."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Wake the reader, now and whenever it waits from then on."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait(self, seen: int, timeout: float) -> GenerationOutput | None:
        """An output with more than `seen` ids, or the last one; None if neither is there within `timeout` seconds.

        Raises the error of `fail`.
        """
        with self._changed:
            self._wanted = seen + 1
            self._changed.wait_for(lambda: self._is_closed or self._has_news(), timeout)
            if self._error is not None:
                raise self._error
            self._has_stopped = False  # if the whole text turns out to have no stop string, the reader waits on
            return self._output if self._has_news() else None

    def wait_end(self, timeout: float) -> None:
        """Wait for `timeout` seconds, or less if the answer ends."""
        with self._changed:
            self._wanted = math.inf
            self._changed.wait_for(lambda: self._is_closed or self._has_news(), timeout)

    def _has_news(self) -> bool:
        output = self._output
        if output is None or self._error is not None:
            return self._error is not None
        return self._has_stopped or output.is_finished() or len(output.generated_tokens) >= self._wanted


class WorkingMailbox(Mailbox):
    """A mailbox whose reader does the loop's work while it waits; see ManagerInCaller.

    `work` runs the loop until what it is given says that it is enough. It returns False if nothing more will come.
    """

    def __init__(
        self, stops: Callable[[Sequence[int]], bool] | None, work: Callable[[Callable[[], bool]], bool]
    ) -> None:
        super().__init__(stops)
        self._work = work

    def wait(self, seen: int, timeout: float) -> GenerationOutput | None:
        """See Mailbox; the last step may end after the time is up."""
        self._wanted = seen + 1
        self._work_for(timeout)
        return super().wait(seen, 0)

    def wait_end(self, timeout: float) -> None:
        """See Mailbox."""
        self._wanted = math.inf
        self._work_for(timeout)

    def _work_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds

        def is_enough() -> bool:
            return self._is_closed or self._has_news() or time.monotonic() >= end

        while not is_enough() and self._work(is_enough):
            pass


class MailboxRouter(OutputRouter):
    """Puts each output into its request's mailbox. What goes wrong with one request ends that one alone."""

    def __init__(self, mailboxes: dict[str, Mailbox]) -> None:
        super().__init__()
        self._mailboxes = mailboxes
        self.on_broken: Callable[[], None] = lambda: None  # called after a request ended with NaN or infinity

    def deliver(self, output: GenerationOutput) -> None:
        if output.generated_tokens and output.generated_tokens[-1] == NO_TOKEN:
            self.on_broken()
            self.fail(output.request_id, NotFinite.computed_by("The language model"))
        elif mailbox := self._mailboxes.get(output.request_id):
            try:
                mailbox.put(output)
            except Exception as error:  # of the stop check
                mailbox.fail(error)

    def fail(self, request_id: str, error: Exception) -> None:
        """End one request with an error."""
        if mailbox := self._mailboxes.get(request_id):
            mailbox.fail(error)

    def note_reused(self, request_id: str, tokens: int) -> None:
        """A prompt's tokens were found in the prefix cache; of a request that is resumed, the first time counts."""
        if (mailbox := self._mailboxes.get(request_id)) and mailbox.num_reused is None:
            mailbox.num_reused = tokens

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        for output in outputs:
            self.deliver(output)
