"""Pictures in data URIs."""

from __future__ import annotations

import base64
import textwrap
from urllib.parse import quote

import pytest

from app.api.openai.api_errors import ApiError
from app.api.openai.data_uris import picture_of
from tests.app.helpers import encode, scene

DATA = base64.b64encode(encode(scene(), "JPEG")).decode()
START = "data:image/jpeg;base64,"


SMALL = quote(DATA, safe="").replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d")


@pytest.mark.parametrize("written", [DATA, quote(DATA, safe=""), SMALL, textwrap.fill(DATA, 76)])
def test_base64_may_be_escaped_or_wrapped(written: str) -> None:
    assert picture_of(START + written, "x").image.size == scene().size


@pytest.mark.parametrize("data", ["%", "%" * 1000, "%zz", "%41" * 100, DATA + "%"])
def test_other_escapes_are_refused(data: str) -> None:
    with pytest.raises(ApiError, match="is not base64"):
        picture_of(START + data, "x")
