"""The figures of one full-size model on one device."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from benchmarks.chats import ask_together
from benchmarks.gpu.ceilings import Ceilings, bytes_per_token, first_token_floor
from benchmarks.gpu.gpu_models import FullSize
from benchmarks.gpu.published_speeds import rival_of
from benchmarks.gpu.step_counts import count_steps
from benchmarks.measure import Clock, Figure, SpeedReport
from benchmarks.originals import OriginalChat
from benchmarks.random_models import picture, question, random_model
from engine.chat_engine import ChatEngine
from models.vision_language_model import VisionLanguageModel


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
            counts = count_steps(partial(self._answer, engine)) if self.clock.device.type == "cuda" else None
            late = engine.stats().steps_captured - captured
        read = bytes_per_token(model.language_model)
        share, rival = alone * read / self.ceilings.bandwidth, rival_of(read)
        floor = first_token_floor(model, full.size, prompt_tokens, self.ceilings)
        self._add(name, "1 chat, times eager generate", "tokens/s", alone, eager, alone / eager, full.eager)
        self._add(name, "1 chat, share of the bandwidth", "tokens/s", alone, None, share, full.bandwidth)
        label = f"1 chat, share of the bandwidth against the published one of {rival.engine}"
        self._add(name, label, "of the bandwidth", share, rival.share, share / rival.share, None)
        label = f"{self.chats} chats, times eager generate"
        self._add(name, label, "tokens/s", together, eager, together / eager, full.together)
        self._add(name, "first token, times the floor", "s", first, floor, first / floor, 3.0, at_most=True)
        self._add(name, "steps captured after the start", "", late, None, late, 0, at_most=True)
        if counts is not None:
            self._add(name, "kernels launched in a step", "", counts.launches, None, counts.launches, None)
            self._add(name, "graphs launched in a step", "", counts.graphs, None, counts.graphs, 1, at_most=True)
            self._add(name, "waits in a step", "", counts.waits, None, counts.waits, 1, at_most=True)
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

    def _answer(self, engine: ChatEngine, tokens: int) -> None:
        """One chat's answer of so many tokens."""
        ask_together(engine, [[question(40, tokens)]], tokens, self.clock)

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
