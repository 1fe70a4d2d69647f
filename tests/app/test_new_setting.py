"""A setting that is added to `Sampling` reaches every door by its description alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from app.api.openai.api_errors import ApiError
from app.api.openai.schema import ChatRequest, read_request, sampling_of
from app.remote.boxes.known import MarkupBoxes
from app.remote.completion_request import request_body, uri_as_sent
from app.remote.remote_config import RemoteConfig
from app.remote.served_elsewhere import ServedElsewhere
from models.conversation import Sampling, Turn
from models.sampling_settings import setting
from tests.fakes import INFO


@dataclass(frozen=True, kw_only=True)
class More(Sampling):
    """With a setting that nothing in the program names."""

    least_p: float = setting(0.0, low=0, high=1, neutral=0, label="Least p", help="", detail="{:g}")


def test_a_new_setting_reaches_every_door() -> None:
    """It is a field with its description: `/v1` reads it, another server is asked for it, both check its range."""
    asked = read_request(ChatRequest, {"messages": [{}], "least_p": 0.25, "max_tokens": 5})
    sampling = sampling_of(asked, More())
    assert sampling == More(least_p=0.25, max_new_tokens=5)
    with pytest.raises(ApiError, match="least_p is 2; it must be"):
        sampling_of(read_request(ChatRequest, {"messages": [{}], "least_p": 2}), More())
    config = RemoteConfig(source=Path("a.yaml"), server_url="http://a/v1")
    elsewhere = ServedElsewhere(config=config, model="name", info=INFO, boxes=MarkupBoxes())
    for value in (0.25, 0.0):
        body = request_body(elsewhere, [Turn("user", "hi")], More(least_p=value), uri_as_sent)
        assert ("least_p" in body, body["max_tokens"]) == (value > 0, 300)
