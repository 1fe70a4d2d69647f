"""Tests of the cluster want Ray, which is not among the development requirements: it brings another event loop
(uvloop) that uvicorn would then take in every test. One real cluster serves all of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import httpx
import pytest

from tests.app.cluster.asking import SETTINGS
from tests.waiting import eventually, free_port

REASON = "Ray is not installed: pip install -r requirements-cluster.txt"


@pytest.fixture(scope="session")
def with_ray() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        pytest.importorskip("ray.serve", reason=REASON)


@pytest.fixture(scope="session")
def url(with_ray: None) -> Iterator[str]:
    """Of a cluster on this machine with two models of two replicas each."""
    from app.cluster.running import Cluster

    with Cluster(SETTINGS, port=free_port()) as cluster:
        assert eventually(lambda: httpx.get(f"{cluster.url}/health").status_code == 200)
        yield cluster.url
