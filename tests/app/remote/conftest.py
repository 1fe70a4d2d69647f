"""A scripted server elsewhere, and models that ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from app.remote.remote_config import remote_config
from app.remote.remote_model import RemoteModel
from app.remote.served_elsewhere import find_served
from tests.app.far_server import FarServer, far_server
from tests.waiting import eventually

Connect = Callable[..., RemoteModel]


@pytest.fixture
def far() -> Iterator[FarServer]:
    with far_server() as far:
        far.say("A red circle", " and a blue", " square.")
        yield far
        far.go_on.set()
        assert eventually(lambda: far.num_running == 0), "a question was left running"


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A connected model for the server at an address, with keys of a YAML."""
    with ExitStack() as stack:

        def made(url: str, key: str | None = None, **keys: Any) -> RemoteModel:
            options = [f"{name}={value}" for name, value in keys.items()]
            config = remote_config(None, options, url=url, key=key, model=None)
            assert config is not None
            return stack.enter_context(RemoteModel(find_served(config, report=lambda _: None)))

        yield made
