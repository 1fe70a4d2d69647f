"""Replicas come with the questions and go when nobody asks; then the first question waits for a new one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.random_models import picture
from models.conversation import Sampling, Turn
from tests.app.cluster.asking import CONFIG, MODEL, replicas
from tests.waiting import eventually

NAME = "scaled"  # an application of its own, beside the one that all other tests ask


@pytest.mark.usefixtures("url")
def test_up_to_two_and_down_to_none() -> None:
    from ray import serve

    from app.cluster.application import build
    from app.cluster.elsewhere import ReplicatedModel

    few = {"min_replicas": 0, "max_replicas": 2, "target": 1, "up_delay": 0, "down_delay": 3}
    serve.run(build({"configs": [CONFIG], "cpus": 0.1, **few}), name=NAME, route_prefix="/scaled")
    try:
        handle = serve.get_deployment_handle(MODEL, NAME)
        model = ReplicatedModel(handle, handle.facts.remote().result())
        most = 0

        def ask(number: int) -> str:
            turn = Turn("user", "[caption] describe this image", (picture(number),))
            *_, last = model.stream([turn], Sampling(temperature=0, max_new_tokens=60))
            return last.text

        with ThreadPoolExecutor(8) as threads:
            for _ in range(1000):  # until a second one has come
                assert all(threads.map(ask, range(8)))
                most = max(most, len(replicas(NAME)))
                if most == 2:
                    break
        assert most == 2
        assert eventually(lambda: not replicas(NAME), timeout=120)
        assert ask(1)
    finally:
        serve.delete(NAME)
