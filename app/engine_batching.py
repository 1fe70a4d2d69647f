"""transformers' continuous batching, adapted: what its manager, router and prefix cache do differently here.

Outputs go straight to a mailbox per request; the prefix cache forgets its oldest pages first; prompts are read in small
pieces while answers are being written; the thread never keeps the program alive.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cache_allocators.cache_allocator import BlockLedger
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    ContinuousBatchProcessor,
    OutputRouter,
)
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestState, RequestStatus

from app.engine_graphs import GraphedRunner
from app.engine_pages import update_quickly
from app.engine_steady import SteadyDecoder, can_decode_steadily
from app.sampling import RequestSampler

# Seconds by which an idle loop lets others catch up with a question. A step begun for one of several that come at once
# keeps the rest waiting, and then they are read in small pieces.
_GATHERING = 0.003
_BURST = 12  # times `busy_prefill_tokens`, of several prompts that came together
_SETTLED = 8  # tokens of an answer that has waited for others long enough


class Mailbox:
    """The newest output of one request, for one reader. The loop overwrites it and never waits.

    The reader's thread is woken only by what it waits for: woken by every token, it would take the interpreter from the
    loop each time. `stops` says of all ids whether the last one completes a stop string: the reader has to see it soon,
    as the loop knows nothing of those and goes on until it is told.
    """

    def __init__(self, stops: Callable[[Sequence[int]], bool] | None = None) -> None:
        self._changed = threading.Condition()
        self._stops = stops
        self._has_stopped = False
        self._output: GenerationOutput | None = None
        self._is_closed = False
        self._wanted: float = 1  # ids that are news to the reader; infinite while it waits for the end

    def put(self, output: GenerationOutput) -> None:
        with self._changed:
            self._output = output
            if self._stops is not None:
                self._has_stopped |= self._stops(output.generated_tokens)
            if self._has_news():
                self._changed.notify_all()

    def close(self) -> None:
        """Wake the reader for good."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait(self, seen: int, timeout: float) -> GenerationOutput | None:
        """An output with more than `seen` ids or the last one, whichever is there within `timeout` seconds."""
        with self._changed:
            self._wanted = seen + 1
            self._changed.wait_for(lambda: self._is_closed or self._has_news(), timeout)
            self._has_stopped = False  # should the whole text have no stop string, it goes on waiting
            return self._output if self._has_news() else None

    def wait_end(self, timeout: float) -> None:
        """Let `timeout` seconds pass, or less if the answer ends."""
        with self._changed:
            self._wanted = math.inf
            self._changed.wait_for(lambda: self._is_closed or self._has_news(), timeout)

    def _has_news(self) -> bool:
        output = self._output
        if output is None:
            return False
        return self._has_stopped or output.is_finished() or len(output.generated_tokens) >= self._wanted


class MailboxRouter(OutputRouter):
    """Puts each output into its request's mailbox."""

    def __init__(self, mailboxes: dict[str, Mailbox]) -> None:
        super().__init__()
        self._mailboxes = mailboxes

    def deliver(self, output: GenerationOutput) -> None:
        if mailbox := self._mailboxes.get(output.request_id):
            mailbox.put(output)

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        for output in outputs:
            self.deliver(output)


class OldestFirstLedger(BlockLedger):
    """Makes room by forgetting the pages that were unused for longest, where the library forgets all of them."""

    def __init__(self, at_least: int) -> None:
        super().__init__()
        self._at_least = at_least

    def evict_cached_blocks(self) -> list[int]:
        count = max(self._at_least, len(self.cached_blocks) // 4)
        evicted = list(self.cached_blocks)[:count]
        for block in evicted:
            del self.cached_blocks[block]
            del self.hash_to_block[self.block_to_hash.pop(block)]
        return evicted


class Manager(ContinuousBatchingManager):
    """The library's manager with a thread that dies with the program, and the first fatal error kept."""

    crash: Exception | None = None
    num_reused = 0  # prompt tokens found in the prefix cache
    busy_prefill_tokens: int | None = None  # see `_step_tokens`
    graph_context_tokens: int | None = None  # the longest conversation, where decoding steps are to be CUDA graphs
    sampler: RequestSampler | None = None  # set before the start
    copy_tokens = 0  # see SteadyDecoder
    steady: SteadyDecoder | None = None
    _is_burst = False  # prompts are being read that came while nobody was answered

    def start(self) -> None:
        self.background_thread_status.clear()
        thread = threading.Thread(target=self._run_generation_loop, name="generation loop", daemon=True)
        setattr(self, "_generation_thread", thread)  # noqa: B010 (untyped in the library)
        thread.start()

    def stop(self, *args: Any, **kwargs: Any) -> None:
        super().stop(*args, **kwargs)
        self.steady = None  # it holds the KV cache, which the library lets go of here

    def _handle_critical_error(self, error: Exception, batch_processor: ContinuousBatchProcessor | None) -> None:
        self.crash = error  # before the requests hear of it
        super()._handle_critical_error(error, batch_processor)

    @torch.inference_mode()  # a tiny model's step takes a few per cent less than without gradients alone
    def _run_generation_loop(self) -> None:
        super()._run_generation_loop()

    def _generation_loop_body(self, batch_processor: ContinuousBatchProcessor, bootstrapping: bool) -> bool:
        if self.steady is not None and self.steady.run():
            self._is_burst = False
            return True
        scheduler = batch_processor.scheduler
        running = list(scheduler.active_requests.values())
        if not running and not self.input_queue.empty():
            time.sleep(_GATHERING)
        # When memory ran out the library admits nobody until a running request finishes. If those were all cancelled
        # instead, it would wait forever.
        if scheduler.block_new_requests and not running:
            scheduler.block_new_requests = False
        batch_processor.max_batch_tokens = self._step_tokens(batch_processor, running)
        go_on: bool = super()._generation_loop_body(batch_processor, bootstrapping)
        return go_on

    def _step_tokens(self, batch_processor: ContinuousBatchProcessor, running: Sequence[RequestState]) -> int:
        """The most tokens of the next step, which takes as long as the prompts it reads.

        With answers under way it reads a few tokens of prompts, and more where more wait than are answered. Prompts
        that came together while nobody was answered are read one after the other, as then most are answered sooner and
        none later; the first to be answered wait for the rest, unless these go on coming.
        """
        most: int = batch_processor.cache.max_batch_tokens
        if self.busy_prefill_tokens is None:
            return most
        answers = [state.generated_len() for state in running if state.status == RequestStatus.DECODING]
        prompts = len(running) - len(answers) + len(batch_processor.scheduler.waiting_requests)
        prompts += self.input_queue.qsize()
        if not answers:
            self._is_burst = True
            if prompts <= 1:
                return most
        else:
            self._is_burst &= prompts > 0 and max(answers) < _SETTLED
        pieces = _BURST if self._is_burst else max(1, prompts // len(answers))
        return min(most, len(answers) + self.busy_prefill_tokens * pieces)

    def _create_batch_processor(self) -> ContinuousBatchProcessor:
        is_new = self.batch_processor is None
        processor = super()._create_batch_processor()
        if is_new:
            # What one step can ask for: a full prefill chunk and one new page for each request.
            config = self.continuous_batching_config
            per_step = processor.cache.max_batch_tokens // config.page_size + cast(int, config.max_requests_per_batch)
            for allocator in processor.cache.cache_allocators.values():
                allocator.ledger = OldestFirstLedger(per_step)
            self._count_reuse(processor.cache)
            leave_config_alone(processor)
            update_quickly(processor.cache)
            if self.graph_context_tokens is not None:
                processor.model_runner = GraphedRunner(processor.model_runner)
            elif self.sampler is not None and self.copy_tokens and can_decode_steadily(processor.cache):
                self.steady = SteadyDecoder(
                    self.model,
                    processor,
                    self.sampler,
                    max_tokens=self.copy_tokens,
                    cancellations=self.cancel_queue,
                    is_disturbed=self._is_disturbed,
                )
        return processor

    def warmup(self) -> None:
        super().warmup()
        processor = self.batch_processor
        if self.graph_context_tokens is not None and processor is not None:
            runner = cast(GraphedRunner, processor.model_runner)
            with torch.no_grad():
                runner.warm_up(self.model, context_tokens=self.graph_context_tokens, report=print)

    def _is_disturbed(self) -> bool:
        """Whether anything waits for the loop: a request, somebody who wants it to stop or to pause."""
        status = self.background_thread_status
        is_to_rest = status.local_status != status.DONT_STOP or status.is_pause_requested()
        return is_to_rest or not self.input_queue.empty()

    def _count_reuse(self, cache: PagedAttentionCache) -> None:
        search = cache.search_prefix_match

        def counted(request_id: str, prompt_ids: list[int]) -> int:
            found: int = search(request_id, prompt_ids)
            self.num_reused += found
            return found

        setattr(cache, "search_prefix_match", counted)  # noqa: B010 (the library has no hook for it)


def leave_config_alone(processor: ContinuousBatchProcessor) -> None:
    """Keep the loop's forward passes from writing to the model's config.

    Given `is_causal=False`, transformers sets it in the shared config for the time of the call. Another thread that
    runs the model meanwhile (`generate`) then attends to the future, and may even leave the config that way for good.
    With a mask, which continuous batching builds for all but flash attention, the argument changes nothing else.
    """
    inputs = processor.inputs_and_outputs
    with_is_causal = inputs.get_model_kwargs

    def get_model_kwargs(use_padding: bool = False) -> Any:
        kwargs: Any = with_is_causal(use_padding)
        if kwargs["attention_mask"] is not None:
            del kwargs["is_causal"]
        return kwargs

    setattr(inputs, "get_model_kwargs", get_model_kwargs)  # noqa: B010 (the library has no hook for it)
