"""Layers with experts: one block against DeepSpeed's dispatch, and a whole model against its dense equivalent."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PhiConfig
from transformers.models.phi.modeling_phi import PhiMLP

from benchmarks.chats import KV_BYTES, ask_together
from benchmarks.measure import Clock, Figure, SpeedReport, take_turns
from benchmarks.originals import dispatch_by_einsum
from benchmarks.random_models import ModelSize, fill, question, random_model
from engine.chat_engine import ChatEngine
from engine.packed_weights import pack_weights
from models.parts.sparse_moe import SparseFeedForward, SparseLayers


def make_block(hidden: int, inner: int, dtype: torch.dtype, device: torch.device) -> SparseFeedForward:
    """A block of four experts as in MoE-LLaVA-Phi2, with random weights."""
    config = PhiConfig(hidden_size=hidden, intermediate_size=inner)
    config._experts_implementation = "grouped_mm"
    layers = SparseLayers(indices=(0,), num_experts=(4,), eval_capacity_factor=2.0)
    block = SparseFeedForward(config, 4, layers, PhiMLP(config)).to(device=device, dtype=dtype).eval()
    fill([block], seed=0, device=device)
    return block


@torch.inference_mode()
def compare_blocks(
    *,
    hidden: int,
    inner: int,
    dtype: torch.dtype,
    counts: Sequence[int],
    repeats: int,
    clock: Clock,
    report: SpeedReport,
    goal: float | None,
) -> None:
    """One block as it is served, over different numbers of tokens, against an einsum dispatch over the same weights."""
    block = make_block(hidden, inner, dtype, clock.device)
    served = copy.deepcopy(block)
    pack_weights(served)
    name = f"{hidden}/{inner}, {str(dtype).removeprefix('torch.')}"
    for count in counts:
        tokens = torch.randn(count, hidden, generator=torch.Generator().manual_seed(count)).to(clock.device, dtype)
        ways = {"original": partial(dispatch_by_einsum, block, tokens), "ours": partial(served, tokens)}
        found = take_turns({name: partial(_seconds, clock, way) for name, way in ways.items()}, repeats=repeats)
        if dtype == torch.float32:
            close = torch.allclose(served(tokens), dispatch_by_einsum(block, tokens), rtol=1e-4, atol=1e-5)
            report.check_equal(f"MoE block {name}, {count} tokens", [str(close)], ["True"])
        report.add(
            Figure(
                name=f"MoE block, {count} token{'s' * (count > 1)}",
                setting=name,
                unit="s",
                ours=found.median("ours", "time"),
                original=found.median("original", "time"),
                ratio=found.ratio("time", "original", "ours"),
                goal=goal,
            )
        )


def compare_with_dense(
    backbone: str, size: ModelSize, new_tokens: int, dtype: torch.dtype, repeats: int, clock: Clock, report: SpeedReport
) -> None:
    """Tokens/s of one chat with four experts in every second layer, against the same model with none."""
    models = {
        "sparse": random_model(backbone, size, dtype=dtype, device=clock.device, context_tokens=512),
        "dense": random_model(
            backbone, replace(size, num_experts=0), dtype=dtype, device=clock.device, context_tokens=512
        ),
    }
    engines = {name: ChatEngine(model, max_concurrent=1, kv_bytes=KV_BYTES // 4) for name, model in models.items()}
    with engines["sparse"], engines["dense"]:

        def speed(name: str, repetition: int) -> dict[str, float]:
            start = clock()
            read = ask_together(engines[name], [[question(8, repetition)]], new_tokens, clock)[0]
            assert read.answer is not None
            return {"speed": read.answer.num_new_tokens / (clock() - start)}

        found = take_turns({name: partial(speed, name) for name in models}, repeats=repeats)
    read_bytes = {name: _read_per_token(model.language_model) for name, model in models.items()}
    report.add(
        Figure(
            name="experts, 1 chat against its dense equivalent",
            setting=f"{models['sparse'].info.name}, {models['sparse'].info.dtype}",
            unit="tokens/s",
            ours=found.median("sparse", "speed"),
            original=found.median("dense", "speed"),
            ratio=found.ratio("speed", "sparse", "dense"),
        )
    )
    report.note(
        f"{models['sparse'].info.name}: reading only the experts in use, a token needs "
        f"{read_bytes['sparse'] / read_bytes['dense']:.2f} times the weights of its dense equivalent; that many times "
        "fewer tokens/s are what memory allows."
    )


def _read_per_token(language_model: nn.Module) -> float:
    """Weights that one decoding step has to read: two of four experts, no input embedding."""
    embedding = language_model.get_input_embeddings().weight  # type: ignore[operator]
    total = sum(parameter.numel() for parameter in language_model.parameters()) - embedding.numel()
    experts = [m.experts for m in language_model.modules() if isinstance(m, SparseFeedForward)]
    return total - sum(p.numel() / 2 for block in experts if block is not None for p in block.parameters())


def _seconds(clock: Clock, work: Callable[[], Tensor], _: int) -> dict[str, float]:
    start = clock()
    work()
    return {"time": clock() - start}
