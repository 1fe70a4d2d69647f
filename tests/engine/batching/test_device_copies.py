"""Numbers go to a device as they are, and without waiting only where that is safe."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.batching import device_copies
from engine.batching.device_copies import CopiesWithoutWaiting, to_device

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [None, torch.int32, torch.float16])
def test_the_numbers_and_their_format_stay(dtype: torch.dtype | None) -> None:
    assert torch.equal(to_device([3, 1, 2], CPU, dtype), torch.tensor([3, 1, 2], dtype=dtype))
    assert to_device([3, 1, 2], CPU, dtype).dtype == (dtype or torch.int64)


@pytest.mark.parametrize(("kind", "waits"), [("cpu", True), ("cuda", False), ("mps", True)])
def test_only_cuda_is_not_waited_for(kind: str, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, Any]] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda _, device, **options: seen.append((device, options)))
    to_device([1], torch.device(kind))
    assert seen == [(torch.device(kind), {"non_blocking": not waits})]


def test_within_the_mode_numbers_for_a_device_are_copied_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def record(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((args, kwargs))
        return to_device(*args, **kwargs)

    monkeypatch.setattr(device_copies, "to_device", record)
    with CopiesWithoutWaiting():
        assert torch.tensor([5, 6], dtype=torch.int32, device=CPU).tolist() == [5, 6]
        assert torch.tensor([7]).tolist() == [7]  # no device is named: nothing to wait for
        assert torch.zeros(2, device=CPU).tolist() == [0, 0]  # made on the device
    assert seen == [(([5, 6],), {"dtype": torch.int32, "device": CPU})]
    torch.tensor([8], device=CPU)
    assert len(seen) == 1
