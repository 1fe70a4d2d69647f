"""transformers' continuous batching manager, adapted.

The prefix cache evicts its least recently used pages first; prompts are prefilled in small pieces while answers are
being decoded; the thread does not keep the program alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache_allocators.cache_allocator import BlockLedger
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    ContinuousBatchProcessor,
    OutputRouter,
)
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
from transformers.generation.continuous_batching.utils import stream_context

from engine.asker import Asker
from engine.batching.broken_tokens import BrokenTokens
from engine.batching.cuda_graphs import GraphedRunner
from engine.batching.mailbox import Mailbox
from engine.batching.native_prompts import NativePrompts
from engine.batching.paged_cache import place_pages
from engine.batching.patches import (
    count_reuse,
    end_broken_requests,
    leave_config_alone,
    use_fast_update,
    use_native_prompts,
    wait_once,
)
from engine.batching.prefill_turns import prefill_by_turns
from engine.batching.request_sampler import RequestSampler
from engine.batching.steady_decoder import SteadyDecoder, can_decode_steadily
from engine.memory import ZerosFrom, no_zeros, zeros_on_demand
from engine.native.native_step import native_step
from models.memory.spreading import layer_devices

# Seconds that an idle loop waits after a request for others that come with it. If it began a step for the first alone,
# the others would be prefilled in small pieces, beside the first one's decode steps.
_GATHER_SECONDS = 0.003
_BURST_PIECES = 12  # a step prefills this many times `busy_prefill_tokens` of prompts that came together
_SETTLED_TOKENS = 8  # once an answer has so many, prompts that came with it no longer delay it


class OldestFirstLedger(BlockLedger):
    """Makes room by evicting the least recently used pages; the library's ledger evicts all that are not in use."""

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
    """The library's manager with a daemon thread, which keeps the error that ended it in `crash`.

    `busy_prefill_tokens`: see `_step_tokens`. `graph_context_tokens` is the longest conversation if decode steps are to
    be CUDA graphs, or None. Otherwise a SteadyDecoder decodes, over a contiguous cache of `copy_tokens` tokens.
    """

    _generation_thread: Any  # untyped in the library

    def __init__(
        self,
        language_model: PreTrainedModel,
        config: ContinuousBatchingConfig,
        *,
        sampler: RequestSampler,
        router: OutputRouter,
        busy_prefill_tokens: int | None,
        graph_context_tokens: int | None,
        copy_tokens: int,
    ) -> None:
        super().__init__(cast(Any, language_model), GenerationConfig(do_sample=False, eos_token_id=-1), config)
        self.logit_processor = sampler.processors()
        self.output_router = router
        self.sampler = sampler
        self.crash: Exception | None = None
        self.askers: dict[str, Asker] = {}  # by request
        self.num_reused = 0  # prompt tokens found in the prefix cache
        self.on_reused: Callable[[str, int], None] = lambda *_: None  # called with a request's id and how many it had
        self.steady: SteadyDecoder | None = None
        self.is_enough: Callable[[], bool] = lambda: False  # whether whoever runs the steps has something else to do
        self._busy_prefill_tokens = busy_prefill_tokens
        self._graph_context_tokens = graph_context_tokens
        self._copy_tokens = copy_tokens
        self._must_forget = False
        self._is_burst = False  # prompts are being prefilled that came while no answer was being decoded

    def start(self) -> None:
        self.background_thread_status.clear()
        self._generation_thread = threading.Thread(
            target=self._run_generation_loop, name="generation loop", daemon=True
        )
        self._generation_thread.start()

    def stop(self, *args: Any, **kwargs: Any) -> None:
        super().stop(*args, **kwargs)
        self.steady = None  # it refers to the KV cache, which the library frees here

    def _handle_critical_error(self, error: Exception, batch_processor: ContinuousBatchProcessor | None) -> None:
        self.crash = error  # set before the requests are ended by it, so that their readers find it
        super()._handle_critical_error(error, batch_processor)

    @torch.inference_mode()  # a tiny model's step takes a few per cent less than without gradients alone
    def _run_generation_loop(self) -> None:
        super()._run_generation_loop()

    def _generation_loop_body(self, batch_processor: ContinuousBatchProcessor, bootstrapping: bool) -> bool:
        try:
            return self._step(batch_processor, bootstrapping)
        except Exception:
            raise
        except BaseException as error:  # the library would let the thread die without ending its requests
            raise RuntimeError(f"{type(error).__name__} in a step of the model") from error

    def _step(self, batch_processor: ContinuousBatchProcessor, bootstrapping: bool) -> bool:
        if self._must_forget:
            self._must_forget = False
            while batch_processor.cache.evict_cached_blocks():
                pass
        if self.steady is not None:
            # In the stream of the library's steps, which wrote the pages before and read them afterwards.
            with stream_context(batch_processor.inputs_and_outputs.compute_stream):
                has_decoded = self.steady.run()
            if has_decoded:
                self._is_burst = False
                return True
        scheduler = batch_processor.scheduler
        running = list(scheduler.active_requests.values())
        if not running and not self.input_queue.empty():
            time.sleep(_GATHER_SECONDS)
        # When pages ran out the library admits no request until a running one finishes. If all of these were cancelled
        # instead, it would wait forever.
        if scheduler.block_new_requests and not running:
            scheduler.block_new_requests = False
        batch_processor.max_batch_tokens = self._step_tokens(batch_processor, running)
        go_on: bool = super()._generation_loop_body(batch_processor, bootstrapping)
        return go_on

    def _step_tokens(self, batch_processor: ContinuousBatchProcessor, running: Sequence[RequestState]) -> int:
        """The most tokens of the next step; a step with a long prefill delays every answer that is being decoded.

        While answers are being decoded, a step prefills `busy_prefill_tokens` of prompts, times prompts // answers
        when prompts outnumber answers. A burst, several prompts that came while no answer was being decoded, is
        prefilled one prompt after the other in larger pieces: most first tokens then come sooner and none later. It
        ends when all its prompts are prefilled, or when an answer has `_SETTLED_TOKENS`.
        """
        most: int = batch_processor.cache.max_batch_tokens
        if self._busy_prefill_tokens is None:
            return most
        answers = [state.generated_len() for state in running if state.status == RequestStatus.DECODING]
        prompts = len(running) - len(answers) + len(batch_processor.scheduler.waiting_requests)
        prompts += self.input_queue.qsize()
        if not answers:
            self._is_burst = True
            if prompts <= 1:
                return most
        else:
            self._is_burst &= prompts > 0 and max(answers) < _SETTLED_TOKENS
        pieces = _BURST_PIECES if self._is_burst else max(1, prompts // len(answers))
        return min(most, len(answers) + self._busy_prefill_tokens * pieces)

    def _create_batch_processor(self) -> ContinuousBatchProcessor:
        is_new = self.batch_processor is None
        devices = layer_devices(cast(PreTrainedModel, self.model))
        are_apart = len(set(devices)) > 1
        with ZerosFrom(no_zeros if are_apart else zeros_on_demand):  # the pages, of which the library writes to all
            processor = super()._create_batch_processor()
        if is_new:
            if are_apart:
                place_pages(processor.cache, devices)
            # Pages that one step can need: for a full prefill, and one new page for each request.
            config = self.continuous_batching_config
            per_step = processor.cache.max_batch_tokens // config.page_size + cast(int, config.max_requests_per_batch)
            for allocator in processor.cache.cache_allocators.values():
                allocator.ledger = OldestFirstLedger(per_step)
            count_reuse(processor.cache, self._add_reused)
            prefill_by_turns(processor, self.askers)
            leave_config_alone(processor)
            broken = BrokenTokens(devices, processor.cache.max_batch_tokens)
            use_fast_update(processor.cache, broken)
            if processor.model_device.type != "cpu":
                wait_once(processor)
            if self._graph_context_tokens is not None:
                processor.model_runner = GraphedRunner(processor.model_runner)
            elif self._copy_tokens and can_decode_steadily(processor.cache):
                native = native_step(cast(PreTrainedModel, self.model))
                if native is not None:
                    use_native_prompts(processor, NativePrompts(self.model, native, processor.cache, broken))
                self.steady = SteadyDecoder(
                    self.model,
                    processor,
                    self.sampler,
                    max_tokens=self._copy_tokens,
                    cancellations=self.cancel_queue,
                    has_other_work=self._has_other_work,
                    native=native,
                )
            end_broken_requests(processor, self.sampler, broken)
        return processor

    def warmup(self) -> None:
        super().warmup()
        processor = self.batch_processor
        if self._graph_context_tokens is not None and processor is not None:
            runner = cast(GraphedRunner, processor.model_runner)
            with torch.no_grad():
                runner.warm_up(self.model, context_tokens=self._graph_context_tokens, report=print)

    def _has_other_work(self) -> bool:
        """Whether the loop has a new request, or is to stop or to pause."""
        status = self.background_thread_status
        must_halt = status.local_status != status.DONT_STOP or status.is_pause_requested()
        return must_halt or not self.input_queue.empty() or self.is_enough()

    def mailbox(self, stops: Callable[[Sequence[int]], bool] | None) -> Mailbox:
        """For a new request; `stops` as in Mailbox."""
        return Mailbox(stops)

    def forget_prefixes(self) -> None:
        """Empty the prefix cache before the next step, as it may hold keys and values that are NaN."""
        self._must_forget = True

    def _add_reused(self, request_id: str, tokens: int) -> None:
        self.num_reused += tokens
        self.on_reused(request_id, tokens)
