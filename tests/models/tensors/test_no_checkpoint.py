"""Files that are no checkpoint at all: web pages in place of a download, and anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.errors import CheckpointCorrupt
from models.tensors.weights import read_tensors


@pytest.mark.parametrize(
    "page", ["\n<!DOCTYPE html>", "  <!doctype html><html>", "<HTML><HEAD><TITLE>Google Drive - Virus scan warning"]
)
def test_a_web_page_is_called_one(page: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text(page)
    with pytest.raises(CheckpointCorrupt, match="is a web page"):
        read_tensors(tmp_path / "a.pth")


@given(st.binary(max_size=200) | st.text(max_size=80).map(str.encode) | st.binary(max_size=99).map(b"\x80\x02".__add__))
@example(b"a,b\n1,2\n")
@example(b"root:x:0:0\n")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointCorrupt) as error:
        read_tensors(tmp_path / "a.pth")
    assert "\n" not in str(error.value)
    assert "could run code" not in str(error.value) or content.startswith(b"\x80")
