"""Which device is taken for what a user writes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.devices import more_gpus, pick_device, pick_devices
from models.errors import ConfigError
from models.tensors.weights import Part


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
