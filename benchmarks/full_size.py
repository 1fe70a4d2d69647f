"""`python -m benchmarks.full_size FAMILY`: a released model at full size with random weights, and what it really takes.

The files are written first, then another process loads them, starts the engine and answers. Memory is the process's own
(which nothing but the process can give back) and that of the files it has mapped (which the system takes back when it
needs it), in GiB, beside what was announced before anything was allocated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from benchmarks.released_files import ROOT, Release, releases
from models.command_line import place

_GIB = 2**30
_RESERVE = 2 * _GIB  # of the disk, left alone
_STEPS = 5
_PERIOD = 0.01  # seconds between two looks at the memory


class Memory:
    """This process's own memory and that of mapped files, in bytes: now, and the most since `begin`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._most = (0, 0, 0)
        threading.Thread(target=self._watch, daemon=True).start()

    @staticmethod
    def now() -> tuple[int, int]:
        """Own and mapped."""
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        own, shared, mapped = (1024 * int(lines[key].split()[0]) for key in ("RssAnon", "RssShmem", "RssFile"))
        return own + shared, mapped

    def begin(self) -> None:
        """Forget what was."""
        with self._lock:
            self._most = (0, 0, 0)
        self.look()

    def look(self) -> None:
        """Take the present into account."""
        own, mapped = self.now()
        with self._lock:
            self._most = tuple(map(max, self._most, (own, mapped, own + mapped)))  # type: ignore[assignment]

    def end(self) -> dict[str, float]:
        """What it has been since `begin`, and what it is."""
        self.look()
        own, mapped = self.now()
        most = dict(zip(("own", "mapped", "both"), self._most, strict=True))
        found = {f"most {key}": value / _GIB for key, value in most.items()}
        return {**found, "own": own / _GIB, "mapped": mapped / _GIB}

    def _watch(self) -> None:
        while True:
            self.look()
            time.sleep(_PERIOD)


def write(release: Release, folder: Path) -> None:
    """All files and the YAML that names them. What is there already stays."""
    values = yaml.safe_load((ROOT / "eval_configs" / f"{release.config}.yaml").read_text(encoding="utf-8"))
    (folder / "model.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    for file, write_file in release.files.items():
        if not (folder / file).exists():
            start = time.perf_counter()
            write_file(folder / file)
            took = time.perf_counter() - start
            print(f"  wrote {file}, {release.sizes[file] / _GIB:.1f} GiB in {took:.0f} s", flush=True)


def measure(path: Path, *, dtype: str | None, quantization: str | None, options: Sequence[str], tokens: int) -> None:
    """Load, start, answer; one JSON line per step on stdout. Runs in a process of its own."""
    memory = Memory()
    import torch

    from benchmarks.random_models import picture
    from engine.chat_engine import ChatEngine
    from models.conversation import Sampling, Turn
    from models.loader import load_model

    begun = time.perf_counter(), time.process_time()

    def step(name: str, **found: Any) -> None:
        nonlocal begun
        now = time.perf_counter(), time.process_time()
        seconds, cpu = (end - start for end, start in zip(now, begun, strict=True))
        print(json.dumps({"step": name, "seconds": seconds, "cpu": cpu, **found, **memory.end()}), flush=True)
        memory.begin()
        begun = time.perf_counter(), time.process_time()

    step("program", threads=torch.get_num_threads())
    announced: list[str] = []
    model = load_model(
        path, device="cpu", dtype=dtype, quantization=quantization, overrides=options, report=announced.append
    )
    step("loaded", announced=announced)
    with ChatEngine(model) as engine:
        step("engine started")
        image = picture(1, 512)
        model.encode_images([image])
        step("image encoded")
        if not tokens:
            return
        sampling = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=tokens)
        start = time.perf_counter()
        first, last = None, None
        for last in engine.stream([Turn("user", "Describe this image in detail.", (image,))], sampling):
            first = first or (time.perf_counter() - start if last.num_new_tokens else None)
        took = time.perf_counter() - start
        assert first is not None
        assert last is not None
        speed = (last.num_new_tokens - 1) / max(took - first, 1e-9)
        step("answered", first_token=first, tokens=last.num_new_tokens, per_second=speed, ended=last.finish_reason)


def follow(command: Sequence[str]) -> list[dict[str, Any]]:
    """Run the process that is measured; print a row for each step when it is done, and what was announced."""
    print(f"  {'GiB':16}{'own, most':>11}{'own, rest':>11}{'mapped, most':>14}{'mapped, rest':>14}{'both, most':>12}")
    steps: list[dict[str, Any]] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            if not text.startswith("{"):
                continue
            found = json.loads(text)
            steps.append(found)
            own_most, own, mapped_most, mapped, both = (
                found[key] for key in ("most own", "own", "most mapped", "mapped", "most both")
            )
            row = f"{own_most:11.2f}{own:11.2f}{mapped_most:14.2f}{mapped:14.2f}{both:12.2f}"
            print(f"  {found['step']:16}{row}", flush=True)
            for announced in found.get("announced", ()):
                print(f"  announced: {announced}", flush=True)
    return steps


def show(steps: Sequence[dict[str, Any]]) -> None:
    """The figures that matter, as far as the process got."""
    by_name = {step["step"]: step for step in steps}
    if "engine started" in by_name:
        program, loaded, started = (by_name[name] for name in ("program", "loaded", "engine started"))
        rest = started["own"] + started["mapped"]
        print(f"  at rest {rest - program['own'] - program['mapped']:.2f} GiB more than the program alone")
        for name, step in (("loading", loaded), ("the engine's start", started)):
            print(f"  worst moment of {name}: {step['most both'] / rest:.2f} times the memory at rest")
    for name in ("loaded", "engine started", "image encoded", "answered"):
        if name in by_name:
            print(f"  {name}: {by_name[name]['seconds']:.1f} s, {by_name[name]['cpu']:.1f} s of CPU time")
    if "answered" in by_name:
        answer = by_name["answered"]
        print(f"  first token after {answer['first_token']:.1f} s, then {answer['per_second']:.2f} tokens per second")


def main(argv: Sequence[str] | None = None) -> int:
    """Write, measure, print; the files are deleted unless they are in a folder that was named."""
    known = releases()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("family", choices=tuple(known))
    parser.add_argument("--folder", type=place, help="where the files go and stay (default: a temporary one)")
    parser.add_argument("--dtype", help="numbers of the weights (default: as the program chooses)")
    parser.add_argument("--quantization", help="none, 8bit or 4bit (default: as the program chooses)")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML")
    parser.add_argument("--tokens", type=int, default=16, help="length of the answer; 0: none (%(default)s)")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # the process that is measured
    args = parser.parse_args(argv)
    if args.measure:
        options = {"dtype": args.dtype, "quantization": args.quantization, "options": args.options}
        measure(args.folder / "model.yaml", tokens=args.tokens, **options)
        return 0
    release = known[args.family]
    where = nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory(prefix="full-size-")
    with where as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        needed = sum(size for place, size in release.sizes.items() if not (folder / place).exists())
        free = shutil.disk_usage(folder).free
        print(f"{release.config}: {needed / _GIB:.1f} GiB to write in {folder}, {free / _GIB:.1f} GiB free", flush=True)
        if needed + _RESERVE > free:
            print(f"error: not enough room in {folder}; name another place with --folder.", file=sys.stderr)
            return 2
        write(release, folder)
        passed = ["--folder", str(folder), "--tokens", str(args.tokens)]
        passed += [f"--dtype={args.dtype}"] * bool(args.dtype)
        passed += [f"--quantization={args.quantization}"] * bool(args.quantization)
        passed += ["--options", *args.options] if args.options else []
        command = [sys.executable, "-m", "benchmarks.full_size", args.family, "--measure", *passed]
        steps = follow(command)
    show(steps)
    if len(steps) < (wanted := _STEPS - (args.tokens == 0)):
        print(f"error: it ended after {len(steps)} of {wanted} steps.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
