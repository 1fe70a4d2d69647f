"""The benchmark for GPUs runs to its end on a pretended one, which counts what steps ask of it; times mean nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.gpu import gpu_runner
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.gpu_models import PARTS
from benchmarks.gpu.step_counts import StepCounts
from tests.on_gpu.tiny_families import Gpus


@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs_to_its_end(part: int, gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count_steps(answer: Callable[[int], object]) -> StepCounts:
        """In the place of torch's profiler, which asks CUDA itself."""
        counts, found = gpus[0].counts, []
        for tokens in (2, 10):
            counts.reset()
            answer(tokens)
            found.append(StepCounts(counts.launches, counts.replays, counts.synchronizations))
        return found[1].per_step(found[0], 8)

    monkeypatch.setattr(gpu_runner, "count_steps", count_steps)
    assert main(["--part", str(part), "--small", "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.glob(f"*-{part}-gpu.json")
    values = json.loads(path.read_text())
    assert set(values["equal"].values()) == {True}
    found = {(figure["setting"], figure["name"]): figure for figure in values["figures"]}
    for name, full in PARTS[part].items():
        assert found[name, "1 chat, times eager generate"]["goal"] == full.eager
        assert found[name, "first token, times the floor"]["goal"] == 3
        assert found[name, "steps captured after the start"]["ratio"] == 0
        assert found[name, "graphs launched in a step"]["ratio"] == 1
        assert found[name, "waits in a step"]["ratio"] == 1
    notes = [note for note in values["notes"] if note.startswith("published, not measured: ")]
    assert len(notes) == 3
