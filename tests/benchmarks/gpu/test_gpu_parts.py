"""The benchmark for GPUs runs, on a CPU, and asks what it should; times are never looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.__main__ import main as gpu_benchmark
from benchmarks.gpu.ceilings import Ceilings, bytes_per_token, first_token_floor
from benchmarks.gpu.gpu_models import PARTS
from benchmarks.gpu.published_speeds import GPT_FAST, VLLM, rival_of
from benchmarks.gpu.step_counts import StepCounts, counted
from benchmarks.random_models import BACKBONES, SMALL, language_model_of, random_model
from tests.tiny_model import quick_process


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with quick_process():
        yield


def test_the_gpu_benchmark_can_be_tried_out_on_a_cpu(tmp_path: Path) -> None:
    """Both parts, on a pretended GPU: tests/on_gpu."""
    assert gpu_benchmark(["--part", "2", "--device", "cpu", "--small", "--output", str(tmp_path)]) == 0
    values = json.loads(next(tmp_path.glob("*-2-gpu.json")).read_text())
    assert set(values["equal"].values()) == {True}
    assert {figure["setting"] for figure in values["figures"]} >= PARTS[2].keys()


def test_the_goals_on_a_gpu_are_all_asked_for() -> None:
    v2 = PARTS[1]["MiniGPT-v2 7B"]
    assert (v2.bandwidth, v2.eager, v2.low_resource, v2.together) == (0.65, 4, 12, 8)
    assert {full.eager for name, full in PARTS[1].items() if "7B" not in name} == {6}
    assert {full.backbone for part in PARTS.values() for full in part.values()} == set(BACKBONES)


def test_the_floor_of_the_first_token_counts_every_patch_of_the_tower() -> None:
    model = random_model("llama", SMALL)
    slow_sums = Ceilings(bandwidth=1e30, flops=1.0)
    tower = sum(p.numel() for p in model.vision_tower.parameters()) * 2 * 17  # 4 x 4 patches and CLS
    text = bytes_per_token(model.language_model) / 4 * 2 * 10
    assert first_token_floor(model, SMALL, 10, slow_sums) == pytest.approx(tower + text)


def test_a_gpu_is_asked_for_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_benchmark(["--part", "1"])
    assert "no CUDA GPU" in capsys.readouterr().err


def test_full_sizes_are_those_of_the_released_models() -> None:
    """Parameters of the language models in billions, as published (MoE-LLaVA: with all experts)."""
    published = {
        "MiniGPT-v2 7B": 6.74, "TinyGPT-V 2.8B": 2.78, "Mini-Gemini 2B": 2.51, "MoE-LLaVA StableLM": 2.68 + 0.2,
        "Mini-Gemini 34B": 34.4, "Mini-Gemini 8x7B": 46.7, "Mini-Gemini 8B": 8.03, "MiniGPT-4 13B": 13.0,
    }  # fmt: skip
    models = {name: full for part in PARTS.values() for name, full in part.items()}
    for name, billions in published.items():
        full = models[name]
        with torch.device("meta"):
            language_model = language_model_of(full.backbone, full.size, context_tokens=2048)
        counted = sum(parameter.numel() for parameter in language_model.parameters()) / 1e9
        assert counted == pytest.approx(billions, rel=0.03), name


def test_what_is_left_when_the_time_is_over_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_SECONDS", -1)
    monkeypatch.setattr(command.chats, "run", lambda *_: None)
    assert gpu_benchmark(["--part", "2", "--device", "cpu", "--small", "--output", str(tmp_path)]) == 0
    values = json.loads(next(tmp_path.glob("*-2-gpu.json")).read_text())
    assert not values["figures"]
    assert [name for name in PARTS[2] if any(note.startswith(f"{name} was left out") for note in values["notes"])] == [
        *PARTS[2]
    ]


def test_published_figures_are_called_so_and_compared_by_size() -> None:
    assert rival_of(13e9) is GPT_FAST
    assert rival_of(2e9) is VLLM
    for published in (GPT_FAST, VLLM):
        assert published.line().startswith("published, not measured: ")
        assert published.source in published.line()


def test_calls_of_cuda_are_counted_by_what_they_do() -> None:
    longer = counted([("cudaLaunchKernel", 30), ("cuLaunchKernelEx", 2), ("cudaGraphLaunch", 9), ("aten::add", 70)])
    shorter = counted([("cudaLaunchKernel", 16), ("cudaGraphLaunch", 1), ("cudaStreamSynchronize", 3)])
    assert longer.per_step(shorter, 8) == StepCounts(2, 1, -3 / 8)
