"""Two pretended GPUs for every module of these tests, of the `KIND` it names or CUDA's; see tests/pretended_gpu."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.on_gpu.tiny_families import Gpus
from tests.pretended_gpu.installation import missing, pretended_gpus
from tests.tiny_model import quick_process


@pytest.fixture(scope="module")
def gpus(request: pytest.FixtureRequest) -> Iterator[Gpus]:
    """Skips, with the reason, where none can be pretended."""
    if reason := missing():
        pytest.skip(reason)
    with quick_process(), pretended_gpus(2, kind=getattr(request.module, "KIND", "cuda")) as both:
        yield both


@pytest.fixture(autouse=True)
def _reset(gpus: Gpus) -> None:
    gc.collect()
    for gpu in gpus:
        gpu.counts.reset()
        gpu.total_bytes = 64 << 30
