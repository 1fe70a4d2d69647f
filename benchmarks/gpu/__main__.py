"""`python -m benchmarks.gpu --part 1` and `2`: full-size models with random weights, against eager `generate`.

They are made on the GPU. Each part is meant to stay below ten minutes; what is left when they are over is left out and
said. Tokens per second are compared with the memory bandwidth measured in the same run and with published figures,
times to the first token with a computed floor; calls of CUDA in a step are counted. First a model of 134 million
parameters in fp32 must answer as `generate` does: exit status 1 otherwise.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks import chats
from benchmarks.gpu.ceilings import measure_ceilings
from benchmarks.gpu.gpu_models import PARTS
from benchmarks.gpu.gpu_runner import GpuRunner
from benchmarks.gpu.published_speeds import GENERATE, GPT_FAST, VLLM
from benchmarks.measure import Clock, SpeedReport
from benchmarks.random_models import SMALL, STANDARD
from benchmarks.report import RESULTS, as_values, circumstances, save
from models.command_line import OneLineParser, place

_SECONDS = 600  # of a part


def main(argv: Sequence[str] | None = None) -> int:
    """Measure a part and write the report."""
    parser = OneLineParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--part", type=int, choices=tuple(PARTS), required=True, help="which models")
    parser.add_argument("--device", default="cuda", help="(%(default)s)")
    parser.add_argument("--small", action="store_true", help="small models, for trying out: times mean nothing")
    parser.add_argument("--output", type=place, default=RESULTS, help="folder for the report (%(default)s)")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA GPU; to try the program out: --device cpu --small")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)  # bitsandbytes wants to know which
    about, clock, report, start = circumstances(device), Clock(device), SpeedReport(), time.monotonic()
    check = SMALL if args.small else STANDARD
    for backbone in sorted({full.backbone for full in PARTS[args.part].values()}):
        chats.run(backbone, check, chats.SMALL, torch.float32, clock, report, {})
    ceilings = measure_ceilings(clock, side=256 if args.small else 8192, megabytes=1 if args.small else 2048)
    report.note(f"measured: {ceilings.bandwidth / 1e12:.2f} TB/s, {ceilings.flops / 1e12:.0f} TFLOP/s in bf16")
    for published in (GPT_FAST, VLLM, GENERATE):
        report.note(published.line())
    small = {"new_tokens": 4, "repeats": 1, "chats": 2} if args.small else {}
    runner, longest = GpuRunner(clock, report, ceilings, **small), 0.0
    for name, full in PARTS[args.part].items():
        begun = time.monotonic()
        if begun - start + longest > _SECONDS:  # each takes about as long as the one before
            report.note(f"{name} was left out: {_SECONDS} s would not have been enough")
            continue
        runner.run(name, replace(full, size=SMALL) if args.small else full)
        gc.collect()  # two of the largest models do not fit at once
        if device.type == "cuda":
            torch.cuda.empty_cache()
        longest = max(longest, time.monotonic() - begun)
    report.note(f"the part took {time.monotonic() - start:.0f} s")
    path = save(as_values(report, about), args.output, f"{args.part}-gpu")
    print(f"\nreport in {path} and .md")
    return 0 if report.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
