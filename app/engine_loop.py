"""The generation loop: one background thread that runs continuous batching over one language model.

A fatal error in it reaches every running request, and the next request starts a new loop.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from app.engine_batching import Mailbox, MailboxRouter, Manager
from app.engine_graphs import GraphedRunner, can_use_graphs
from app.engine_memory import is_out_of_memory
from app.sampling import RequestSampler
from models.conversation import Sampling
from models.errors import NotEnoughMemory

_STOP_SECONDS = 60.0  # the longest step (a big prefill on a slow CPU) that `close` waits for


class LoopStopped(Exception):
    """The generation loop ended under a request. `__cause__` is the error that ended it, if one did."""


@dataclass(frozen=True)
class Ticket:
    """A submitted request."""

    request_id: str
    mailbox: Mailbox
    manager: Manager


class GenerationLoop:
    """Start, submit, cancel, close; restarts itself at the next `submit` after a fatal error. Safe from any thread."""

    def __init__(
        self,
        language_model: PreTrainedModel,
        *,
        config: ContinuousBatchingConfig,
        busy_prefill_tokens: int | None,
        context_tokens: int,
        copy_tokens: int,
        eos_token_ids: Sequence[int],
        penalised_ids: Sequence[int],
        stops: Callable[[Sequence[int]], bool] | None,
    ) -> None:
        self._model = language_model
        self._config = config
        self._busy_prefill_tokens = busy_prefill_tokens
        self._context_tokens = context_tokens
        self.copy_tokens = copy_tokens
        self._eos_token_ids = list(eos_token_ids)
        self._penalised_ids = list(penalised_ids)
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
        """Queue a prompt for the next step."""
        with self._lock:
            manager = self._running_manager()
            self._num_requests += 1
            request_id = f"chat-{self._num_requests}"
            mailbox = self._mailboxes[request_id] = Mailbox(self._stops)
            self._sampler.add(request_id, sampling)
            # The loop may die between these lines; the reader of the mailbox finds out with `check`.
            manager.add_request(
                input_ids,
                request_id=request_id,
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=self._eos_token_ids,
                streaming=True,
            )
            return Ticket(request_id, mailbox, manager)

    def finish(self, ticket: Ticket) -> None:
        """Forget a request; if it is still running, its pages are free at the next step."""
        ticket.manager.cancel_request(ticket.request_id)
        self._mailboxes.pop(ticket.request_id, None)
        self._sampler.remove(ticket.request_id)

    def check(self, ticket: Ticket) -> None:
        """Raise LoopStopped, or NotEnoughMemory, if nothing more will come for this request."""
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
        """Requests that the loop has not let go of yet."""
        manager = self._manager
        processor = manager.batch_processor if manager else None
        if manager is None or processor is None:
            return 0
        scheduler = processor.scheduler
        return len(scheduler.active_requests) + len(scheduler.waiting_requests) + manager.input_queue.qsize()

    @property
    def num_known(self) -> int:
        """Requests that were submitted and not given back by their readers."""
        return max(len(self._mailboxes), self._sampler.num_requests if self._manager else 0)

    @property
    def num_reused(self) -> int:
        """Prompt tokens that were found in the prefix cache, over all restarts."""
        return self._reused_before + (self._manager.num_reused if self._manager else 0)

    @property
    def num_captured(self) -> int:
        """Decoding steps held as CUDA graphs."""
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
        )
        with torch.no_grad():
            manager = Manager(cast(Any, self._model), GenerationConfig(do_sample=False, eos_token_id=-1), self._config)
            manager.busy_prefill_tokens = self._busy_prefill_tokens
            manager.graph_context_tokens = self._context_tokens if can_use_graphs(self._model) else None
            manager.logit_processor = self._sampler.processors()
            manager.sampler, manager.copy_tokens = self._sampler, self.copy_tokens
            manager.output_router = MailboxRouter(self._mailboxes)
            # A cancellation can overtake its request in the library's two queues: then it is asked for again.
            self._sampler.on_unknown = manager.cancel_request
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
