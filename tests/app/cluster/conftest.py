"""Tests of the cluster want Ray, which is not among the development requirements: it brings another event loop
(uvloop) that uvicorn would then take in every test."""

from __future__ import annotations

import warnings

import pytest

REASON = "Ray is not installed: pip install -r requirements-cluster.txt"


@pytest.fixture(scope="session")
def with_ray() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        pytest.importorskip("ray.serve", reason=REASON)
