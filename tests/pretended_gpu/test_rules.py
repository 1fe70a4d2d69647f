"""The pretended GPU behaves as one, wherever a program could notice; and it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tests.pretended_gpu.devices import PretendedDevice
from tests.pretended_gpu.installation import missing, pretended_gpus

Gpus = tuple[PretendedDevice, ...]

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture
def gpus() -> Iterator[Gpus]:
    """Two of them."""
    with pretended_gpus(2, total_bytes=1 << 20) as both:
        yield both


def on(device: str, *values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


@pytest.mark.usefixtures("gpus")
def test_tensors_say_where_they_are_and_keep_their_values() -> None:
    made = [torch.zeros(3, device="cuda"), torch.arange(3, device="cuda:1"), torch.ones(3).to("cuda:1")]
    assert [str(tensor.device) for tensor in made] == ["cuda:0", "cuda:1", "cuda:1"]
    assert all(tensor.is_cuda for tensor in made)
    product = nn.functional.linear(on("cuda", 1, 2), torch.eye(2, device="cuda") * 3)
    assert product.tolist() == [3, 6]
    assert product.cpu().device.type == "cpu"
    with pytest.raises(TypeError, match="convert cuda:0 device type tensor to numpy"):
        product.numpy()
    with torch.device("cuda:1"):
        assert nn.Linear(2, 2).weight.device == torch.device("cuda:1")


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("inference", [True, False])
def test_modules_move_with_what_they_share(inference: bool) -> None:
    module = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 4, bias=False)).requires_grad_(False)
    with torch.inference_mode(inference):
        expected = module(torch.tensor([1, 2]))
        for device in ("cuda:0", "cuda:1"):
            module.to(device)
            assert {str(parameter.device) for parameter in module.parameters()} == {device}
            assert torch.equal(module(torch.tensor([1, 2], device=device)).cpu(), expected)


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (lambda: on("cuda:0", 1) + on("cuda:1", 1), "at least two devices, cuda:1 and cuda:0"),
        (lambda: on("cuda:0", 1) + torch.ones(1), "at least two devices, cuda:0 and cpu"),
        (lambda: torch.cat((on("cuda:0", 1), torch.ones(1))), "at least two devices, cuda:0 and cpu"),
        (lambda: torch.ones(3)[torch.tensor([1], device="cuda")], "same device as the indexed tensor"),
        (lambda: torch.zeros(1, device="cuda:2"), "invalid device ordinal"),
    ],
)
def test_devices_do_not_mix(mix: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        mix()


def test_what_makes_the_host_wait_is_counted(gpus: Gpus) -> None:
    counts = gpus[0].counts
    values = torch.arange(4.0).to("cuda", non_blocking=True)
    assert counts.synchronizations == 0
    for read in (
        lambda: values[1].item(), lambda: values.tolist(), lambda: bool(values.any()), lambda: values.cpu(),
        lambda: values.nonzero(), lambda: values[values > 1], lambda: torch.unique(values), lambda: values.max() > 2.0,
    ):  # fmt: skip
        read()
    assert counts.reads == 7  # all but the last, which stays on the device
    torch.tensor([1.0], device="cuda")
    values[[0, 1]] = values.new_tensor([1.0, 2.0])
    assert counts.blocking_copies == 3  # the list of indices is one
    torch.cuda.current_stream().synchronize()
    torch.cuda.synchronize("cuda:0")
    assert counts.waits == 2
    assert gpus[1].counts.synchronizations == 0


def test_memory_is_taken_shared_and_given_back(gpus: Gpus) -> None:
    first, second = gpus
    big = torch.empty(200_000, device="cuda")
    view = big[:1000].view(10, 100)
    assert first.used_bytes == 800_000
    assert torch.cuda.mem_get_info(0) == ((1 << 20) - 800_000, 1 << 20)
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 0\.76 MiB"):
        big.clone()
    big.to("cuda:1")  # and away again
    del big
    assert (first.used_bytes, second.used_bytes) == (800_000, 0)
    del view
    torch.empty(250_000, device="cuda")
    assert first.used_bytes == 0


@pytest.mark.usefixtures("gpus")
def test_a_graph_is_replayed_into_the_same_outputs() -> None:
    values, total, scale = on("cuda", 1, 2), on("cuda", 0, 0), 3.0
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = (values * scale)[1:] + 1
        total.add_(values)
    total.zero_()
    scale = 100.0  # what Python decided stays decided
    values.copy_(on("cuda", 10, 20))
    graph.replay()
    graph.replay()
    assert output.tolist() == [61]
    assert total.tolist() == [20, 40]


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    "forbidden",
    [
        lambda values: values[0].item(),
        lambda values: values.cpu(),
        lambda values: values[values > 0],
        lambda values: torch.tensor([1.0], device="cuda"),
        lambda values: torch.cuda.current_stream().synchronize(),
    ],
)
def test_a_graph_reads_nothing_back(forbidden: Any) -> None:
    values = on("cuda", 1, 2)
    with pytest.raises(RuntimeError, match="captur"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        forbidden(values)
    assert values.tolist() == [1, 2]


def test_an_apple_gpu_has_no_float64() -> None:
    with pretended_gpus(kind="mps"):
        assert torch.ones(2, device="mps").sum().item() == 2
        with pytest.raises(TypeError, match="doesn't support float64"):
            torch.ones(2, device="mps").double()
        with pytest.raises(TypeError, match="doesn't support float64"):
            torch.zeros(2, device="mps", dtype=torch.float64)
    assert not torch.backends.mps.is_available()


def test_nothing_is_left_behind() -> None:
    from transformers.utils import get_available_devices, is_torch_cuda_available

    before = (torch.cuda.mem_get_info, torch.cuda.Stream, torch.Tensor._make_subclass, torch.cuda._lazy_init)
    with pretended_gpus(2):
        left = torch.zeros(2, device="cuda")
        assert is_torch_cuda_available()
        assert "cuda" in get_available_devices()
    assert before == (torch.cuda.mem_get_info, torch.cuda.Stream, torch.Tensor._make_subclass, torch.cuda._lazy_init)
    assert not torch.cuda.is_available()
    assert torch.accelerator.current_accelerator() is None
    assert torch.get_device_module() is torch.cpu
    assert "cuda" not in get_available_devices()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(2, device="cuda")
    with pytest.raises(RuntimeError, match="is gone"):
        left.add_(1)
