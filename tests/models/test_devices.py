"""Which device is taken for what a user writes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from models import devices
from models.devices import bfloat16_gain, more_gpus, pick_device, pick_devices, pick_dtype
from models.errors import ConfigError
from models.loader import load_model
from models.tensors.weights import Part
from tests.paths import GOLDENS


def test_a_gpu_is_counted_from_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_device(name) for name in ("cuda", "cuda:1")] == [torch.device("cuda"), torch.device("cuda:1")]
    with pytest.raises(ConfigError, match="'cuda:2': this machine has 2 CUDA GPUs; use --device cpu"):
        pick_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ConfigError, match="0 CUDA GPUs"):
            pick_device(name)


@pytest.mark.parametrize(
    ("mebibytes", "quantization", "expected"),
    [
        (9, "auto", 1),  # 8 MiB in 16 bits
        (5, "auto", 3),
        (2.5, "auto", 1),  # in 4 bits, 2.25 MiB
        (2, "auto", 3),
        (0.5, "auto", 1),  # nowhere: refused for one
        (2.5, "none", 1),
        (5, "8bit", 1),
        (3, "8bit", 3),
    ],
)
def test_auto_takes_all_gpus_where_one_is_too_small(
    mebibytes: float, quantization: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = tuple(torch.device("cuda", index) for index in range(3))
    monkeypatch.setattr("models.devices.all_gpus", lambda: gpus)
    monkeypatch.setattr("models.devices.free_bytes", lambda _: int(mebibytes * 2**20))
    tensors = {"layer.weight": torch.empty(2048, 2048, device="meta")}
    part = Part(name="p", source="here", module_class=nn.Linear, config={}, tensors=tensors, is_quantizable=True)
    assert len(more_gpus([part], [torch.device("cuda")], torch.bfloat16, quantization)) == expected
    assert more_gpus([part], [torch.device("cpu")], torch.bfloat16, quantization) == (torch.device("cpu"),)


@pytest.mark.parametrize("wanted", ["cuda:0,cpu", "cuda:0,cuda:0", "cuda,cuda:1"])
def test_several_devices_are_different_gpus(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert pick_devices("cuda:1, cuda:0") == (torch.device("cuda:1"), torch.device("cuda:0"))
    with pytest.raises(ConfigError, match="several devices are different GPUs, for example cuda:0,cuda:1"):
        pick_devices(wanted)


@pytest.mark.parametrize(("gain", "expected"), [(3.0, "bfloat16"), (1.1, "float32"), (0.5, "float32")])
def test_a_large_model_on_a_cpu_is_in_the_quicker_format_and_one_line_says_so(
    gain: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "bfloat16_gain", lambda: gain)
    monkeypatch.setattr(devices, "_LARGE", 1000)
    said: list[str] = []
    model = load_model(GOLDENS / "minigpt_v2" / "config.yaml", device="cpu", report=said.append)
    assert model.info.dtype == str(model.language_model.dtype).removeprefix("torch.") == expected
    (line,) = (line for line in said if "--dtype" in line)
    other = {"bfloat16": "float32", "float32": "bfloat16"}[expected]
    assert f"multiplies {gain:.1f} times as fast in bfloat16 as in float32; the model is in {expected}." in line
    assert line.endswith(f"--dtype {other} insists on the other.")


def test_nothing_is_measured_for_small_models_and_where_a_format_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "bfloat16_gain", lambda: pytest.fail("measured"))
    cpu = torch.device("cpu")
    assert pick_dtype("auto", cpu, 2**27) == (torch.float32, "")
    assert pick_dtype("float16", cpu, 2**40) == (torch.float16, "")
    assert pick_dtype("float32", cpu, 2**40) == (torch.float32, "")


def test_the_gain_is_of_both_formats() -> None:
    assert 0.01 < bfloat16_gain() < 100


def test_what_others_do_meanwhile_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever one of the formats is measured, other programs have the processor."""
    threads, product = torch.get_num_threads(), devices._product(torch.float32)
    counts: list[int] = []

    def slowed(dtype: torch.dtype) -> Callable[[], object]:
        def multiply() -> None:
            if dtype == torch.bfloat16:
                time.sleep(0.05)
            counts.append(torch.get_num_threads())
            for _ in range(3):
                product()

        return multiply

    monkeypatch.setattr(devices, "_product", slowed)
    bfloat16_gain.cache_clear()
    try:
        assert 0.5 < bfloat16_gain() < 2
    finally:
        bfloat16_gain.cache_clear()
    assert set(counts) == {1}
    assert torch.get_num_threads() == threads
