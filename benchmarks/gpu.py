"""`python -m benchmarks.gpu PART`: full-size models with random weights, made on the GPU, against eager `generate`.

Each part is meant to stay below ten minutes. Tokens per second are compared with the memory bandwidth measured in the
same run, times to the first token with a computed floor. First a model of 134 million parameters in fp32 must answer as
`generate` does: exit status 1 otherwise.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from benchmarks import chats
from benchmarks.chats import ask_together
from benchmarks.measure import Clock, Figure, SpeedReport
from benchmarks.originals import OriginalChat
from benchmarks.random_models import SMALL, STANDARD, ModelSize, picture, question, random_model
from benchmarks.report import RESULTS, as_values, circumstances, save
from engine.chat_engine import ChatEngine
from models.command_line import OneLineParser
from models.parts.sparse_moe import SparseFeedForward
from models.vision_language_model import VisionLanguageModel

_CLIP_L = {
    "vision_hidden": 1024, "vision_inner": 4096, "vision_layers": 24, "vision_heads": 16, "image": 336, "merge": 1,
}  # fmt: skip
_VIT_G = {
    "vision_hidden": 1408, "vision_inner": 6144, "vision_layers": 39, "vision_heads": 16, "image": 448, "merge": 4,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FullSize:
    """A released model's sizes. Goals: share of the bandwidth, times eager `generate`, times the original's 8 bits."""

    backbone: str
    size: ModelSize
    bandwidth: float | None = None
    eager: float | None = None
    low_resource: float | None = None
    together: float | None = None


def _sizes(hidden: int, inner: int, layers: int, heads: int, key_value_heads: int, vocabulary: int) -> ModelSize:
    return ModelSize(
        hidden=hidden, inner=inner, layers=layers, heads=heads, key_value_heads=key_value_heads, vocabulary=vocabulary
    )


LLAMA_7B = _sizes(4096, 11008, 32, 32, 32, 32000)
PARTS: dict[str, dict[str, FullSize]] = {
    "7b": {
        "MiniGPT-v2 7B": FullSize(
            backbone="llama", size=replace(LLAMA_7B, **_VIT_G),
            bandwidth=0.65, eager=4, low_resource=12, together=8,
        ),
        "Mini-Gemini 7B": FullSize(backbone="llama", size=replace(LLAMA_7B, **_CLIP_L), bandwidth=0.65, eager=4),
    },
    "small": {
        # TinyGPT-V's inner width is 10240: `random_models` makes a Phi half as wide again as it is told.
        "TinyGPT-V 2.8B": FullSize(
            backbone="phi", size=replace(_sizes(2560, 6827, 32, 32, 32, 51200), **_VIT_G), eager=6
        ),
        "Mini-Gemini 2B": FullSize(
            backbone="gemma", size=replace(_sizes(2048, 16384, 18, 8, 1, 256000), **_CLIP_L), eager=6
        ),
        "MoE-LLaVA StableLM": FullSize(
            backbone="sparse_stablelm", size=replace(_sizes(2048, 5632, 24, 32, 32, 100352), **_CLIP_L), eager=6
        ),
        "MoE-LLaVA Qwen": FullSize(
            backbone="sparse_qwen2", size=replace(_sizes(2048, 5504, 24, 16, 16, 151936), **_CLIP_L), eager=6
        ),
        "MoE-LLaVA Phi-2": FullSize(
            backbone="sparse_phi", size=replace(_sizes(2560, 10240, 32, 32, 32, 51200), **_CLIP_L), eager=6
        ),
    },
    "large": {
        "Mini-Gemini 8B": FullSize(
            backbone="llama", size=replace(_sizes(4096, 14336, 32, 32, 8, 128256), **_CLIP_L), bandwidth=0.65
        ),
        "MiniGPT-4 13B": FullSize(
            backbone="llama",
            size=replace(_sizes(5120, 13824, 40, 40, 40, 32000), **(_VIT_G | {"image": 224, "merge": 8})),
            bandwidth=0.65,
        ),
        "MoE-LLaVA OpenChat": FullSize(
            backbone="sparse_mistral", size=replace(_sizes(4096, 14336, 32, 32, 8, 32002), **_CLIP_L)
        ),
        "Mini-Gemini 34B": FullSize(
            backbone="llama", size=replace(_sizes(7168, 20480, 60, 56, 8, 64000), **_CLIP_L), bandwidth=0.65
        ),
        "Mini-Gemini 8x7B": FullSize(
            backbone="mixtral",
            size=replace(_sizes(4096, 14336, 32, 32, 8, 32000), num_experts=8, **_CLIP_L),
            bandwidth=0.65,
        ),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Ceilings:
    """What the device does at best, measured here: bytes per second read, and floating-point operations per second."""

    bandwidth: float
    flops: float


def measure_ceilings(clock: Clock, *, side: int, megabytes: int, repeats: int = 5) -> Ceilings:
    """In bf16, over more than fits any cache: a copy or a product with a vector, the faster; a product of matrices.

    The numbers are random, as a device computes with equal ones faster.
    """
    rows = megabytes * 2**20 // 2 // side
    weights, vector, square = (
        torch.rand(shape, dtype=torch.bfloat16, device=clock.device)
        for shape in ((rows, side), (side, 1), (side, side))
    )
    other = torch.empty_like(weights)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats):
            start = clock()
            work()
            times.append(clock() - start)
        return max(min(times), 1e-9)

    copied = 2 * weights.nbytes / best(lambda: other.copy_(weights))
    multiplied = weights.nbytes / best(lambda: weights @ vector)
    return Ceilings(bandwidth=max(copied, multiplied), flops=2 * side**3 / best(lambda: square @ square))


def bytes_per_token(language_model: nn.Module) -> float:
    """Weights read for one token of one chat: everything but the input embedding, and two experts of each layer."""
    embedding = language_model.get_input_embeddings().weight  # type: ignore[operator]
    total = sum(parameter.nbytes for parameter in language_model.parameters())
    head = language_model.get_output_embeddings()  # type: ignore[operator]
    total -= embedding.nbytes if head.weight is not embedding else 0  # a tied one is read as the head
    for module in language_model.modules():
        experts = getattr(module, "experts", None)
        if isinstance(module, SparseFeedForward) or isinstance(experts, nn.Module):
            count = int(getattr(experts, "num_experts", 2))
            total -= sum(p.nbytes for p in experts.parameters()) * (1 - 2 / count) if experts is not None else 0
    return float(total)


def first_token_floor(model: VisionLanguageModel, size: ModelSize, prompt_tokens: int, ceilings: Ceilings) -> float:
    """Seconds for the tower's arithmetic, and for the prompt's or for reading the weights, whichever takes longer.

    Without attention, so the real floor is a little higher.
    """
    tower = sum(p.numel() for p in model.vision_tower.parameters()) * 2 * (size.image_tokens * size.merge + 1)
    weights = bytes_per_token(model.language_model)
    prefill = weights / model.language_model.dtype.itemsize * 2 * prompt_tokens
    return tower / ceilings.flops + max(prefill / ceilings.flops, weights / ceilings.bandwidth)


@dataclass
class GpuRunner:
    """One part on one device."""

    clock: Clock
    report: SpeedReport
    ceilings: Ceilings
    new_tokens: int = 128
    repeats: int = 3
    chats: int = 16

    def run(self, name: str, full: FullSize) -> None:
        """All figures of one model."""
        model = random_model(full.backbone, full.size, dtype=torch.bfloat16, device=self.clock.device)
        print(f"{name}: {model.info.name}", flush=True)
        original = OriginalChat(model, self.clock, keeps_images=True)
        eager = self._original_speed(original)
        with ChatEngine(model, max_concurrent=self.chats) as engine:
            captured = engine.stats().steps_captured
            first, prompt_tokens = self._first_token(engine)
            alone = self._speed(engine, 1)
            together = self._speed(engine, self.chats)
            late = engine.stats().steps_captured - captured
        share = alone * bytes_per_token(model.language_model) / self.ceilings.bandwidth
        floor = first_token_floor(model, full.size, prompt_tokens, self.ceilings)
        self._add(name, "1 chat, times eager generate", "tokens/s", alone, eager, alone / eager, full.eager)
        self._add(name, "1 chat, share of the bandwidth", "tokens/s", alone, None, share, full.bandwidth)
        label = f"{self.chats} chats, times eager generate"
        self._add(name, label, "tokens/s", together, eager, together / eager, full.together)
        self._add(name, "first token, times the floor", "s", first, floor, first / floor, 3.0, at_most=True)
        self._add(name, "steps captured after the start", "", late, None, late, 0, at_most=True)
        if full.low_resource is not None:
            slow = self._low_resource_speed(model)
            label = "1 chat, times the original's 8 bits"
            self._add(name, label, "tokens/s", alone, slow, alone / slow, full.low_resource)

    def _add(
        self, setting: str, name: str, unit: str, ours: float, original: float | None, ratio: float,
        goal: float | None, *, at_most: bool = False,
    ) -> None:  # fmt: skip
        figure = Figure(
            name=name, setting=setting, unit=unit, ours=ours, original=original, ratio=ratio, goal=goal, at_most=at_most
        )
        self.report.add(figure)

    def _original_speed(self, original: OriginalChat) -> float:
        speeds = []
        for repetition in range(self.repeats + 1):  # the first warms up
            start = self.clock()
            answer = original.answer([question(40, repetition)], self.new_tokens)
            speeds.append(answer.num_tokens / (self.clock() - start))
        return median(speeds[1:])

    def _speed(self, engine: ChatEngine, count: int) -> float:
        speeds = []
        for repetition in range(self.repeats + 1):
            asked = [[question(40, 1000 * count + 100 * repetition + n)] for n in range(count)]
            start = self.clock()
            reads = ask_together(engine, asked, self.new_tokens, self.clock)
            total = sum(read.answer.num_new_tokens for read in reads if read.answer is not None)
            speeds.append(total / (self.clock() - start))
        return median(speeds[1:])

    def _first_token(self, engine: ChatEngine) -> tuple[float, int]:
        """Median time of a first turn with a new image, and its prompt's tokens."""
        times, tokens = [], 0
        for repetition in range(self.repeats + 1):
            start = self.clock()
            # One token: the clock waits for the device, which must not be at the next one by then.
            read = ask_together(engine, [[question(40, repetition, picture(100 + repetition))]], 1, self.clock)[0]
            times.append(read.first - start)
            tokens = read.answer.num_prompt_tokens if read.answer is not None else 0
        return median(times[1:]), tokens

    def _low_resource_speed(self, model: VisionLanguageModel) -> float:
        """`low_resource: True` of the original MiniGPT-4: bitsandbytes' 8 bits with outliers apart (threshold 6)."""
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        exact = model.language_model
        language_model: PreTrainedModel = type(exact).from_pretrained(
            None,
            config=exact.config,
            state_dict=exact.state_dict(),
            trust_remote_code=False,
            dtype=torch.float16,
            device_map={"": self.clock.device},
            quantization_config=BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0),
        )
        model.language_model = language_model
        try:
            return self._original_speed(OriginalChat(model, self.clock, keeps_images=True))
        finally:
            model.language_model = exact


def main(argv: Sequence[str] | None = None) -> int:
    """Measure a part and write the report."""
    parser = OneLineParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=tuple(PARTS), help="which models")
    parser.add_argument("--device", default="cuda", help="(%(default)s)")
    parser.add_argument("--small", action="store_true", help="small models, for trying out: times mean nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the report (%(default)s)")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA GPU; to try the program out: --device cpu --small")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)  # bitsandbytes wants to know which
    about, clock, report = circumstances(device), Clock(device), SpeedReport()
    check = SMALL if args.small else STANDARD
    for backbone in sorted({full.backbone for full in PARTS[args.part].values()}):
        chats.run(backbone, check, chats.SMALL, torch.float32, clock, report, {})
    ceilings = measure_ceilings(clock, side=256 if args.small else 8192, megabytes=1 if args.small else 2048)
    report.note(f"measured: {ceilings.bandwidth / 1e12:.2f} TB/s, {ceilings.flops / 1e12:.0f} TFLOP/s in bf16")
    small = {"new_tokens": 4, "repeats": 1, "chats": 2} if args.small else {}
    runner = GpuRunner(clock, report, ceilings, **small)
    for name, full in PARTS[args.part].items():
        runner.run(name, replace(full, size=SMALL) if args.small else full)
        gc.collect()  # two of the largest models do not fit at once
        if device.type == "cuda":
            torch.cuda.empty_cache()
    path = save(as_values(report, about), args.output, f"{args.part}-gpu")
    print(f"\nreport in {path} and .md")
    return 0 if report.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
