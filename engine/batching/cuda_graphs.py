"""On a CUDA GPU: decode steps as CUDA graphs of fixed shapes, which saves launching their kernels one by one.

A step with at most one token per request is padded to a power of two in requests and in cached tokens, and its graph
is replayed; the graphs of all these shapes are captured at the start. Longer steps, with prefill, run as they are.
Sampling stays outside of the graph, as it depends on every request's settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.generation.continuous_batching.model_runner import ModelRunner
from transformers.generation.continuous_batching.utils import attn_mask_is_needed, pad_to_pow2, stream_context

from models.memory.spreading import is_spread

Capture = Callable[[Callable[[], Tensor], Any], Callable[[], Tensor]]

_LEAST_CACHED = 256  # cached tokens of the smallest graph


def can_use_graphs(language_model: PreTrainedModel) -> bool:
    """Whether steps can be captured: on one CUDA GPU, unquantized (bitsandbytes waits for the device), without flash
    kernels (whose own arguments differ from step to step)."""
    config: Any = language_model.config
    is_cuda = next(language_model.parameters()).device.type == "cuda"
    is_plain = not getattr(language_model, "is_quantized", False) and not is_spread(language_model)
    return is_cuda and is_plain and attn_mask_is_needed(config)


def cuda_graphs() -> Capture:
    """Captures steps: a step becomes a function that runs it again over its input tensors, into the same output tensor.

    All graphs share memory, as only one of them runs at a time; their outputs, which are kept, do not.
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(step: Callable[[], Tensor], stream: Any) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # Other threads (the vision tower, the sampling of readers) may use the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            output = step()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    return capture


class GraphedRunner(ModelRunner):
    """The library's runner of steps, which replays short ones. `num_captured` counts graphs, `failure` says why not."""

    def __init__(self, runner: ModelRunner, *, capture: Capture | None = None) -> None:
        super().__init__(
            logit_processor=runner.logit_processor,
            cb_config=runner.cb_config,
            inputs_and_outputs=runner.inputs_and_outputs,
            cache=runner.cache,
            do_sample=runner.do_sample,
            return_logprobs=runner.return_logprobs,
        )
        self._capture = capture or cuda_graphs()
        self._graphs: dict[tuple[int, int], Callable[[], Tensor]] = {}
        self._is_short = False
        self.failure: BaseException | None = None

    @property
    def _most_requests(self) -> int:
        return cast(int, self.cb_config.max_requests_per_batch)

    @property
    def num_captured(self) -> int:
        """Graphs so far."""
        return len(self._graphs)

    def maybe_pad_inputs(self, num_q_tokens: int, max_kv_read: int, use_decode_fast_path: bool) -> tuple[int, int]:
        """Tokens and cached tokens of the coming step, padded if it is one to replay."""
        most = self._most_requests
        self._is_short = self.failure is None and max_kv_read > 0 and num_q_tokens <= most and not use_decode_fast_path
        self.pad_inputs = self._is_short
        if not self._is_short:
            return num_q_tokens, max_kv_read
        return pad_to_pow2(num_q_tokens, most), self._pad_cached(max_kv_read)

    def compute_batch(self, model: nn.Module, batch_data: dict[str, Any]) -> None:
        """One step, from its inputs to the chosen tokens."""
        if not self._is_short:
            super().compute_batch(model, batch_data)
            return
        if self.supports_logits_to_keep(model):
            batch_data["logits_to_keep"] = batch_data["logits_indices"]
        _, _, output_ids = self.inputs_and_outputs.get_cb_kwargs()
        with stream_context(self.inputs_and_outputs.compute_stream):
            logits = self._logits(model, batch_data)[0].float()  # [R, V]
            if self.logit_processor.do_processing:
                input_ids = batch_data["input_ids"][0, batch_data["logits_indices"]]
                logits = self.logit_processor(input_ids, logits, batch_data["logits_processor_args"])
            self._sample(logits.unsqueeze(0), output_ids)

    def _logits(self, model: nn.Module, batch_data: dict[str, Any]) -> Tensor:
        def step() -> Tensor:
            logits: Tensor = model(**batch_data).logits
            return logits if "logits_to_keep" in batch_data else logits[:, batch_data["logits_indices"]]

        key = (batch_data["input_ids"].shape[1], batch_data["read_index"][0].numel())
        if key not in self._graphs:
            try:
                self._graphs[key] = self._checked(step)
            except Exception as error:
                self.failure = error
                raise
        return self._graphs[key]()

    def _checked(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The step, captured. Raises RuntimeError if its replay gives other values."""
        logits = step()  # it also makes the libraries allocate what may not be allocated in a graph
        replay = self._capture(step, self.inputs_and_outputs.compute_stream)
        if not torch.allclose(replay().float(), logits.float(), rtol=0.05, atol=0.05 * float(logits.abs().max())):
            raise RuntimeError("a replayed step gave other values")
        return replay

    def _pad_cached(self, tokens: int) -> int:
        return pad_to_pow2(tokens, self.cache.max_tokens_read, _LEAST_CACHED)

    def shapes(self, context_tokens: int) -> Iterator[tuple[int, int]]:
        """Every pair of requests and cached tokens that can come, each a power of two or the most there is."""
        most = self._most_requests
        for requests in sorted({pad_to_pow2(n, most) for n in range(1, most + 1)}):
            largest = self._pad_cached(min(requests * context_tokens, self.cache.max_tokens_read))
            yield from (
                (requests, cached)
                for cached in sorted({self._pad_cached(2**n) for n in range(int(math.log2(largest)) + 1)} | {largest})
            )

    def warm_up(self, model: nn.Module, *, context_tokens: int, report: Callable[[str], None]) -> None:
        """Capture all shapes, largest first, as later ones then fit into its memory. Where one fails, none is used."""
        shapes = sorted(self.shapes(context_tokens), key=lambda shape: -shape[0] * shape[1])
        for count, (requests, cached) in enumerate(shapes, start=1):
            before = self.num_captured
            self.run_one_warmup(model, requests, cached)  # it only logs what goes wrong
            if self.failure is None and self.num_captured == before:
                self.failure = RuntimeError(f"{requests} requests with {cached} cached tokens could not be captured")
            if self.failure is not None:
                self._graphs.clear()
                report(f"CUDA graphs do not work here ({self.failure}); answers will come more slowly.")
                break
            if count == len(shapes) or count % 8 == 0:
                report(f"Warming up: {count} of {len(shapes)} decoding steps captured.")
        self.cache.reset()
