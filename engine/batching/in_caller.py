"""The generation loop without a thread of its own: who reads an answer runs the loop's steps meanwhile.

For processes in which a thread may not outlive the call, or would not survive it: a forked worker that has its GPU only
while it answers. One request at a time is the intended use; several readers take turns, step by step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.batching.mailbox import Mailbox, WorkingMailbox
from engine.batching.manager import Manager


class ManagerInCaller(Manager):
    """A Manager whose steps are run by `work`, in the thread that calls it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._working = threading.Lock()
        self._is_open = False

    def start(self) -> None:
        self.background_thread_status.clear()
        self.batch_processor = self._create_batch_processor()
        self.current_batch = 0
        self._is_open = True

    def is_running(self) -> bool:
        return self._is_open and self.crash is None

    def stop(self, *_: Any, **__: Any) -> None:
        """End all requests and free the KV cache: what the library's does where it has a thread."""
        with self._working:
            if self.batch_processor is not None:
                error = RuntimeError("The generation loop was stopped before this request was complete.")
                self._fail_all_remaining_requests(error, self.batch_processor)
            self._is_open = False
            self.background_thread_status.mark_as_stopped()
            self.steady = self.batch_processor = None  # both refer to the KV cache
            original: Any = self._original_attn_impl  # the library says its type is None
            if original is not None:
                self.model.set_attn_implementation(original)
                self._original_attn_impl = None

    @torch.inference_mode()
    def work(self, is_enough: Callable[[], bool]) -> bool:
        """Run the loop for one step, or for decode steps until it is enough. False if the loop has ended."""
        with self._working:
            processor = self.batch_processor
            if processor is None or not self.is_running():
                return False
            if self.model.device.type == "cuda" and self.model.device.index is not None:
                torch.cuda.set_device(self.model.device)  # of this thread
            self.is_enough = is_enough
            try:
                self._generation_loop_body(processor, bootstrapping=False)
            except Exception as error:  # as the library's loop: every request ends with it
                self._handle_critical_error(error, processor)
                return False
            return True

    def mailbox(self, stops: Callable[[Sequence[int]], bool] | None) -> Mailbox:
        return WorkingMailbox(stops, self.work)
