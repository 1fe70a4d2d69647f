"""`python -m benchmarks.peers SIZE`: one chat, eight, a prompt and a later turn, against the strongest peers on a CPU.

One thread on one core, CPU time, in turns, the same random weights. The peers' environments and all that is made of the
weights lie in a folder, and are made once. Exit status 1 when a peer's greedy answers in fp32 differ from ours.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import one_thread
from benchmarks.peers.environments import PEERS, PRECISIONS, PeerMissing
from benchmarks.peers.limits import measure_limits
from benchmarks.peers.peer_turns import CHATS, DECODE, PREFILL, SMALL, TURN5, Found, Work, compare
from benchmarks.peers.peer_weights import SIZES, write_weights
from benchmarks.peers.peers_table import as_markdown
from benchmarks.random_models import ModelSize
from benchmarks.report import RESULTS, circumstances
from models.command_line import OneLineParser, place

# Long steps are worth fewer of them; a conversation of 1,500 tokens takes a minute to read at 1.1 B.
WORK = {"134M": Work(), "1.1B": Work(new=12, chat_new=12, repeats=2, with_turn5=False), "small": SMALL}
GOALS = {
    "134M": {precision: {DECODE: 0.8, TURN5: 1.7} for precision in PRECISIONS},
    "1.1B": {
        "16bit": {DECODE: 1.0, PREFILL: 1.05, CHATS: 1.25},
        "8bit": {DECODE: 0.95, PREFILL: 1.1, CHATS: 1.2},
        "4bit": {DECODE: 0.9, PREFILL: 1.0, CHATS: 1.0},
    },
}
_LEAST_EQUAL = 0.7  # of the answers: where two tokens are nearly tied, a peer's rounding may choose the other
_BITS = {"fp32": 32, "16bit": 16, "8bit": 8, "4bit": 4.5}  # of a weight, with the scale of each 64 of them


def bytes_per_token(size: ModelSize, precision: str) -> float:
    """What a step of one token reads of the weights: all matrices but the embedding.

    Of 4 bits, the head and two decoder layers are in 8 (`wider_weights` in models/quantization.py).
    """
    bits = _BITS[precision]
    attention = size.hidden * size.hidden * (2 + 2 * size.key_value_heads / size.heads)
    layer = attention + 3 * size.hidden * size.inner
    layers = layer * (size.layers * bits + min(2, size.layers) * (max(8, bits) - bits))
    return (layers + size.hidden * size.vocabulary * max(8, bits)) / 8


def values_of(name: str, found: Found, limits: dict[str, float], about: dict[str, Any]) -> dict[str, Any]:
    """What goes into the JSON file."""
    goals = GOALS.get(name, {})
    cells = []
    for cell in found.cells:
        worst = cell.worst()
        values = {
            **dataclasses.asdict(cell),
            "medians": {peer: cell.median(peer) for peer in cell.figures},
            "best_peer": worst and worst[0],
            "ratio": worst and worst[1],
            "goal": goals.get(cell.precision, {}).get(cell.measure),
        }
        if cell.measure == DECODE:
            read = {
                peer: value * bytes_per_token(SIZES[name], cell.precision) for peer, value in values["medians"].items()
            }
            values["share_of_bandwidth"] = {peer: n / 1e9 / limits["read_gb_s"] for peer, n in read.items()}
        cells.append(values)
    peers = {peer.name: list(peer.packages) for peer in PEERS}
    return {**about, "size": name, "peers": peers, "limits": limits, "equal": found.equal, "cells": cells,
            "load_s": found.load, "missing": found.missing}  # fmt: skip


@contextmanager
def one_core() -> Iterator[None]:
    """One core for this process and those that it starts, where a system can say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one size and write the report."""
    parser = OneLineParser(prog="python -m benchmarks.peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("size", choices=tuple(SIZES), help="of the model; small: for trying out, times mean nothing")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, help="these alone (all that fit the size)")
    parser.add_argument("--peers", nargs="*", choices=[peer.name for peer in PEERS], help="these alone (all)")
    parser.add_argument(
        "--folder",
        type=place,
        default=Path.home() / ".cache" / "minivlm-peers",
        help="environments, weights (%(default)s)",
    )
    parser.add_argument("--output", type=place, default=RESULTS, help="folder for the report (%(default)s)")
    args = parser.parse_args(argv)
    # Nearly 18 GiB for everybody's 1.1 billion weights in fp32 at once.
    precisions = args.precisions or (PRECISIONS[1:] if args.size == "1.1B" else PRECISIONS)
    peers = [peer for peer in PEERS if args.peers is None or peer.name in args.peers]
    weights = args.folder / args.size
    write_weights(weights, SIZES[args.size])
    found = Found()
    with one_core(), one_thread():
        about = circumstances(torch.device("cpu"))
        limits = measure_limits() if args.size != "small" else measure_limits(side=64, num_bytes=2**20)
        print(", ".join(f"{name} {value:.4g}" for name, value in limits.items()), flush=True)
        for precision in precisions:
            try:
                compare(weights, args.folder, precision, WORK[args.size], SIZES[args.size].vocabulary, found, peers)
            except PeerMissing as error:
                parser.error(str(error))
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{about['date']}-peers-{args.size}.json"
    values = values_of(args.size, found, limits, about)
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(as_markdown(values), f"\nreport in {path}")
    different = sorted(peer for peer, share in found.equal.items() if share < _LEAST_EQUAL)
    if different:
        print(f"error: greedy answers in fp32 differ from ours: {', '.join(different)}.", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
