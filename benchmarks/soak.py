"""`python -m benchmarks.soak`: many visitors for minutes, who stop, retry and leave; then nothing may be left behind.

Exit status 1 if a counter of the engine is not back at zero, or if a question failed for another reason than a full
queue. What happened is written to benchmarks/results/<date>-soak.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from benchmarks.measure import one_thread
from benchmarks.random_models import picture
from benchmarks.report import RESULTS, circumstances
from engine.chat_engine import ChatEngine
from engine.stats import IN_USE, EngineStats
from models.command_line import ROOT, OneLineParser, place
from models.conversation import Sampling, Turn
from models.errors import Busy
from models.loader import load_model

_QUESTIONS = ("Describe the image.", "And what else?", "Why?", "How many objects are there?", "Say it again, please.")


@dataclass
class Soak:
    """Visitors that talk to one engine until the time is over; `events` counts what they did."""

    engine: ChatEngine
    seconds: float
    seed: int = 0
    events: Counter[str] = field(default_factory=Counter)
    errors: list[BaseException] = field(default_factory=list)

    def run(self, visitors: int) -> EngineStats:
        """Let them talk, wait for the engine to become idle, and return its counters."""
        end = time.monotonic() + self.seconds
        threads = [threading.Thread(target=self._visit, args=(number, end)) for number in range(visitors)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        deadline = time.monotonic() + 60
        while left_behind(stats := self.engine.stats()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return stats

    def _visit(self, number: int, end: float) -> None:
        chance = random.Random(f"{self.seed} {number}")
        try:
            while time.monotonic() < end:
                self._chat(chance, end)
        except BaseException as error:
            self.errors.append(error)

    def _chat(self, chance: random.Random, end: float) -> None:
        """One conversation of up to four questions; the same few pictures come again and again."""
        image: Image.Image = picture(chance.randrange(24))
        turns: list[Turn] = []
        for index in range(chance.randint(1, 4)):
            turns.append(Turn("user", chance.choice(_QUESTIONS), (image,) if index == 0 else ()))
            sampling = Sampling(
                temperature=chance.choice((0.0, 1.0)), max_new_tokens=chance.randint(4, 120), seed=chance.randrange(99)
            )
            answer = self._ask(chance, turns, sampling)
            if chance.random() < 0.2:
                self.events["retried"] += 1
                answer = self._ask(chance, turns, sampling) or answer
            if not answer or time.monotonic() > end:
                return
            turns.append(Turn("assistant", answer))

    def _ask(self, chance: random.Random, turns: Sequence[Turn], sampling: Sampling) -> str:
        """The answer, or what there is of it when the visitor stops or closes the page."""
        stop_after = chance.randint(1, 20) if chance.random() < 0.3 else None
        text = ""
        try:
            stream = self.engine.stream(turns, sampling)
            for answer in stream:
                text = answer.text
                if stop_after is not None and answer.num_new_tokens >= stop_after:
                    stream.close()
                    self.events["stopped"] += 1
            self.events["asked"] += 1
        except Busy:
            self.events["turned away"] += 1
            time.sleep(0.05)
        return text


def left_behind(stats: EngineStats) -> dict[str, int]:
    """The counters that should be zero and are not."""
    return {name: value for name in IN_USE if (value := getattr(stats, name))}


def save(soak: Soak, stats: EngineStats, about: dict[str, object], folder: Path) -> Path:
    """Write what happened, with the counters at the end; the file's path."""
    values = {
        **about,
        "events": dict(sorted(soak.events.items())),
        "errors": [f"{type(error).__name__}: {error}" for error in soak.errors],
        "left_behind": left_behind(stats),
        "counters": dataclasses.asdict(stats),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{about['date']}-soak.json"
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return path


def over_http(args: argparse.Namespace) -> int:
    """The soak of `soak_http`: print and write what happened; exit status 1 if something was wrong or grew."""
    from benchmarks.soak_http import ALLOWED_GROWTH, HttpSoak, left_behind, served

    with served(args.cfg_path) as (url, pid):
        soak = HttpSoak(url, pid, args.seconds)
        soak.run(args.chats)
        left = left_behind(url)
    values = {
        **circumstances(torch.device("cpu")), "chats": args.chats, "seconds": args.seconds,
        "events": dict(soak.events), "errors": soak.errors[:20], "left_behind": left,
        "growth": round(soak.growth, 4), "memory": soak.memory,
    }  # fmt: skip
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{values['date']}-soak-http.json"
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(f"report in {path}")
    print(", ".join(f"{count} {event}" for event, count in sorted(soak.events.items())))
    for seconds, visits, mib in soak.memory:
        print(f"{seconds:6.0f} s  {visits:6d} visits  {mib:7.0f} MiB")
    print(f"memory grew by {soak.growth:.1%} after the first minute; left behind: {left or 'nothing'}")
    return int(bool(soak.errors or soak.events["differing"] or left or soak.growth > ALLOWED_GROWTH))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak and print what happened."""
    parser = OneLineParser(prog="python -m benchmarks.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300, help="how long (%(default)s)")
    parser.add_argument("--chats", type=int, default=16, help="visitors at once (%(default)s)")
    parser.add_argument(
        "--cfg-path",
        type=place,
        default=ROOT / "eval_configs" / "tiny_minigpt_v2.yaml",
        help="model (the bundled MiniGPT-v2)",
    )
    parser.add_argument("--http", action="store_true", help="as visitors of the page, each visit a new session")
    parser.add_argument("--output", type=place, default=RESULTS, help="folder for the report (%(default)s)")
    args = parser.parse_args(argv)
    if args.http:
        return over_http(args)
    with one_thread(), ChatEngine(load_model(args.cfg_path)) as engine:
        about = circumstances(torch.device(engine.info.device)) | {
            "model": engine.info.name, "chats": args.chats, "seconds": args.seconds, "clock": "wall time",
        }  # fmt: skip
        soak = Soak(engine, args.seconds)
        stats = soak.run(args.chats)
    print(f"report in {save(soak, stats, about, args.output)}")
    print(", ".join(f"{count} {event}" for event, count in sorted(soak.events.items())))
    print(stats)
    for error in soak.errors[:3]:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
    if left := left_behind(stats):
        print(f"error: left behind: {left}", file=sys.stderr)
    return 1 if left or soak.errors else 0


if __name__ == "__main__":
    sys.exit(main())
