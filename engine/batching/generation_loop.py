"""The generation loop: one background thread that runs continuous batching over one language model.

Where there may be no such thread, the readers of the answers run its steps (`in_caller`). A fatal error in it ends
every running request, and the next request starts a new loop.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers import PreTrainedModel

from engine.asker import ASKER
from engine.batching.cache_sizes import batching_config, kv_bytes_per_token
from engine.batching.cuda_graphs import GraphedRunner, can_use_graphs
from engine.batching.in_caller import ManagerInCaller
from engine.batching.mailbox import Mailbox, MailboxRouter
from engine.batching.manager import Manager
from engine.batching.request_sampler import NO_TOKEN, RequestSampler
from engine.memory import is_out_of_memory
from models.conversation import Sampling
from models.errors import NotEnoughMemory

_STOP_SECONDS = 60.0  # `close` waits so long for the step under way, which may be a long prefill on a slow CPU


class LoopStopped(Exception):
    """The generation loop ended under a request. `__cause__` is the error that ended it, if one did."""


@dataclass(frozen=True)
class Ticket:
    """A submitted request."""

    request_id: str
    mailbox: Mailbox
    manager: Manager


class GenerationLoop:
    """Start, submit, cancel, close; restarts itself at the next `submit` after a fatal error. Safe from any thread.

    The sizes are those of ChatEngine. `stops` says of an answer's ids whether the last one may complete a stop string.
    Raises NotEnoughMemory when the KV cache has no room for one conversation of `context_tokens`.
    """

    def __init__(
        self,
        language_model: PreTrainedModel,
        *,
        context_tokens: int,
        max_concurrent: int,
        max_batch_tokens: int,
        busy_prefill_tokens: int | None,
        page_size: int,
        kv_bytes: int,
        reuses_prefixes: bool = True,
        eos_token_ids: Sequence[int],
        penalised_ids: Sequence[int],
        num_ids: int,
        stops: Callable[[Sequence[int]], bool] | None,
        in_caller: bool = False,
    ) -> None:
        self._model = language_model
        self._manager_class = ManagerInCaller if in_caller else Manager
        self._context_tokens = context_tokens
        self._has_graphs = can_use_graphs(language_model) and not in_caller  # capturing takes longer than an answer
        self._config, self._copy_tokens = batching_config(
            language_model,
            context_tokens=context_tokens,
            max_concurrent=max_concurrent,
            max_batch_tokens=max_batch_tokens,
            page_size=page_size,
            kv_bytes=kv_bytes,
            with_copies=not self._has_graphs,
            reuses_prefixes=reuses_prefixes,
        )
        per_token = kv_bytes_per_token(language_model)
        self.page_bytes, self.copy_bytes = per_token * page_size, per_token * self._copy_tokens
        self._busy_prefill_tokens = busy_prefill_tokens
        self._eos_token_ids = list(eos_token_ids)
        self._penalised_ids = list(penalised_ids)
        self._num_ids = num_ids
        self._stops = stops
        self._mailboxes: dict[str, Mailbox] = {}
        self._lock = threading.RLock()
        self._manager: Manager | None = None
        self._is_closed = False
        self._num_requests = 0
        self._reused_before = 0
        self.num_restarts = 0

    def start(self) -> None:
        """Allocate the KV cache and start the thread."""
        with self._lock:
            self._running_manager()

    def close(self) -> None:
        """Stop the thread and wait for it. Running requests end with LoopStopped."""
        with self._lock:
            self._is_closed = True
            self._stop()
        for mailbox in list(self._mailboxes.values()):
            mailbox.close()

    def restart(self) -> None:
        """A new loop with an empty prefix cache. Running requests end with LoopStopped."""
        with self._lock:
            self._stop()
            self._running_manager()

    def submit(self, input_ids: list[int], sampling: Sampling) -> Ticket:
        """Queue a prompt for the next step. Raises LoopStopped after `close`."""
        with self._lock:
            manager = self._running_manager()
            self._num_requests += 1
            request_id = f"chat-{self._num_requests}"
            mailbox = self._mailboxes[request_id] = manager.mailbox(self._stops)
            self._sampler.add(request_id, sampling)
            manager.askers[request_id] = ASKER.get()
            # Should the loop end between these lines, the reader of the mailbox finds out with `check`.
            manager.add_request(
                input_ids,
                request_id=request_id,
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=[*self._eos_token_ids, NO_TOKEN],
                streaming=True,
            )
            return Ticket(request_id, mailbox, manager)

    def finish(self, ticket: Ticket) -> None:
        """Forget a request; if it is still running it is cancelled, and its pages are free at the next step."""
        ticket.manager.cancel_request(ticket.request_id)
        self._mailboxes.pop(ticket.request_id, None)
        ticket.manager.askers.pop(ticket.request_id, None)
        self._sampler.remove(ticket.request_id)

    def check(self, ticket: Ticket) -> None:
        """Raise LoopStopped, or NotEnoughMemory, if this request will have no more output."""
        crash = ticket.manager.crash
        if crash is not None and is_out_of_memory(crash):
            raise NotEnoughMemory(
                f"{self._model.device} ran out of memory during this answer. Ask again; if it happens again, use a "
                "shorter conversation, a smaller model or quantization."
            ) from crash
        if crash is not None:
            raise LoopStopped("The model stopped with an error; the next question starts it again.") from crash
        if not ticket.manager.is_running():
            raise LoopStopped("The model was shut down while it answered.")

    def pages(self) -> tuple[int, int, int]:
        """KV pages in use by requests, kept for reuse, and in total."""
        manager = self._manager
        processor = manager.batch_processor if manager else None
        if processor is None:
            return 0, 0, 0
        cache = processor.cache
        allocators = list(cache.cache_allocators.values())
        kept = sum(len(allocator.ledger.cached_blocks) for allocator in allocators)
        free = sum(cache.pool.count_free_blocks(allocator.index) for allocator in allocators)
        free += sum(cache.pool.num_free_sectors * allocator.blocks_per_sector for allocator in allocators)
        total = sum(allocator.num_blocks for allocator in allocators)
        return total - free - kept, kept, total

    @property
    def num_active(self) -> int:
        """Requests in the batch, waiting for it, or on their way to the loop."""
        manager = self._manager
        processor = manager.batch_processor if manager else None
        if manager is None or processor is None:
            return 0
        scheduler = processor.scheduler
        return len(scheduler.active_requests) + len(scheduler.waiting_requests) + manager.input_queue.qsize()

    @property
    def num_known(self) -> int:
        """Requests that were submitted and for which `finish` was not called yet."""
        return max(len(self._mailboxes), self._sampler.num_requests if self._manager else 0)

    @property
    def num_reused(self) -> int:
        """Prompt tokens that were found in the prefix cache, over all restarts."""
        return self._reused_before + (self._manager.num_reused if self._manager else 0)

    @property
    def num_captured(self) -> int:
        """Decode steps held as CUDA graphs."""
        manager = self._manager
        processor = manager.batch_processor if manager else None
        runner = processor.model_runner if processor else None
        return runner.num_captured if isinstance(runner, GraphedRunner) else 0

    def _running_manager(self) -> Manager:
        if self._is_closed:
            raise LoopStopped("The model is shut down.")
        if self._manager is not None and self._manager.crash is None and self._manager.is_running():
            return self._manager
        if self._manager is not None:
            self._stop()
            self.num_restarts += 1
        vocab_size = self._model.config.get_text_config().vocab_size
        self._sampler = RequestSampler(
            max_requests=cast(int, self._config.max_requests_per_batch),
            vocab_size=getattr(self._model.get_output_embeddings(), "out_features", vocab_size),
            device=self._model.device,
            penalised_ids=self._penalised_ids,
            num_ids=self._num_ids,
        )
        router = MailboxRouter(self._mailboxes)
        with torch.no_grad():
            manager = self._manager_class(
                self._model,
                self._config,
                sampler=self._sampler,
                router=router,
                busy_prefill_tokens=self._busy_prefill_tokens,
                graph_context_tokens=self._context_tokens if self._has_graphs else None,
                copy_tokens=self._copy_tokens,
            )
            # The library has a queue for requests and one for cancellations. A cancellation that is read before its
            # request has no effect; it is repeated when that request turns up in a batch.
            self._sampler.on_unknown = manager.cancel_request
            self._sampler.on_failed, router.on_broken = router.fail, manager.forget_prefixes
            manager.on_reused = router.note_reused
            manager.warmup()  # allocates the cache here, where an error reaches the caller
        manager.start()
        self._manager = manager
        return manager

    def _stop(self) -> None:
        manager, self._manager = self._manager, None
        if manager is None:
            return
        self._reused_before += manager.num_reused
        manager.stop(hard_stop=True, timeout=_STOP_SECONDS)
        if manager.crash is not None:
            traceback.clear_frames(manager.crash.__traceback__)  # they keep the old KV cache in memory
