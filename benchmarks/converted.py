"""`python -m benchmarks.converted FAMILY`: how much sooner a converted folder is loaded than the released files.

The released files are written at full size with random values, and converted once for each kind of weights. Source and
folder are then loaded in turn, each time by a process of its own, in the same number format and quantization. Files are
in the system's cache as far as it has room for them, so what is compared is the work, not the disk.

Two figures each: until the model is there, and until every page of its weights was read as well, which an answer does.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from benchmarks.full_size import write
from benchmarks.released_files import ROOT, releases
from models.command_line import place

_GIB = 2**30
_RESERVE = 2 * _GIB  # of the disk, left alone
_KINDS = {"bfloat16": ("bfloat16", "none"), "8bit": ("bfloat16", "8bit"), "4bit": ("bfloat16", "4bit")}
_FIGURES = ("loaded", "read", "loaded_cpu", "read_cpu")


def measure(path: Path, kind: str) -> dict[str, float]:
    """Load once in this process: seconds, and seconds of CPU time, until it is there and until all of it was read."""
    from benchmarks.load_time import touch
    from models.loader import load_model
    from models.quantization import load_bitsandbytes

    disable_progress_bar()
    load_bitsandbytes()  # what both need is imported before
    load_model(ROOT / "eval_configs" / "tiny_moe_llava.yaml", device="cpu", report=None)
    dtype, quantization = _KINDS[kind]
    start, start_cpu = time.perf_counter(), time.process_time()
    model = load_model(path, device="cpu", dtype=dtype, quantization=quantization, report=None)
    loaded, loaded_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    touch(list(model.parameters()))
    read, read_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return dict(zip(_FIGURES, (loaded, read, loaded_cpu, read_cpu), strict=True))


def measured(family: str, path: Path, kind: str) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.converted", family, "--measure", str(path), "--kinds", kind]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(family: str, folder: Path, kind: str, *, repeats: int) -> None:
    """Convert to one kind, load both in turn, print a row, and remove the converted folder."""
    from models.conversion.convert import convert

    dtype, quantization = _KINDS[kind]
    source, out = folder / "model.yaml", folder / "converted"
    start = time.perf_counter()
    convert(source, out, dtype=dtype, quantization=quantization, report=lambda _: None)
    took = time.perf_counter() - start
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    runs = [(measured(family, source, kind), measured(family, out, kind)) for _ in range(repeats)]
    shutil.rmtree(out)
    row = f"{kind:9}{size / _GIB:7.2f} GiB{took:8.0f} s"
    for key in _FIGURES:
        before, after = (statistics.median(run[side][key] for run in runs) for side in (0, 1))
        ratio = statistics.median(run[0][key] / run[1][key] for run in runs)
        row += f"  {before:7.2f} → {after:6.2f} s ({ratio:5.1f}x)"
    print(f"  {row}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Write, convert, load, print; what was written is deleted unless it is in a folder that was named."""
    known = releases()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.converted", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("family", choices=tuple(known))
    parser.add_argument("--folder", type=place, help="where the released files go and stay (default: a temporary one)")
    parser.add_argument("--kinds", nargs="+", choices=tuple(_KINDS), default=list(_KINDS), help="of weights (all)")
    parser.add_argument("--repeats", type=int, default=3, help="of every pair of loadings (%(default)s)")
    parser.add_argument("--measure", type=place, help=argparse.SUPPRESS)  # the process that is measured
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure(args.measure, args.kinds[0])))
        return 0
    release = known[args.family]
    disable_progress_bar()  # of transformers, for every tensor
    with nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory(prefix="converted-") as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if (needed := 2 * release.num_bytes + _RESERVE) > free:
            print(
                f"error: {needed / _GIB:.0f} GiB are needed in {folder}, {free / _GIB:.0f} are free.", file=sys.stderr
            )
            return 2
        write(release, folder)
        print(f"{release.config}: {release.num_bytes / _GIB:.1f} GiB of released files; source → converted folder")
        heads = ("there", "read", "there, CPU", "read, CPU")
        print(f"  {'kind':9}{'size':>11}{'written in':>10}" + "".join(f"  {head:^27}" for head in heads))
        for kind in args.kinds:
            compare(args.family, folder, kind, repeats=args.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
