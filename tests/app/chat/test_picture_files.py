"""Drawn pictures as files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from app.chat.picture_files import save_picture
from models.errors import RequestError

DRAWN = Image.new("RGB", (4, 4), "teal")


def test_a_file_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    assert [save_picture(DRAWN, tmp_path, "drawn").name for _ in range(3)] == [
        "drawn.png",
        "drawn-2.png",
        "drawn-3.png",
    ]


def test_a_picture_that_can_not_be_saved_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"can't be saved as .*drawn\.png"):
        save_picture(DRAWN, tmp_path / "gone", "drawn")
