"""What the stage is told, and what it believes of the browser."""

from __future__ import annotations

from typing import Any

import pytest

from app.page.boxes.box_tool import box_of, tool_value
from models.grounding import Box
from tests.app.helpers import picture


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        ([10, 20, 30, 40], Box(0.1, 0.2, 0.3, 0.4)),
        ([30, 40, 10, 20], Box(0.1, 0.2, 0.3, 0.4)),  # drawn from the lower right
        ([0, 0, 100, 100], Box(0, 0, 1, 1)),
        ([10, 20, 10, 40], None),
        ([10, 20, 30, 20], None),
        ([10, 20, 30], None),
        ([10, 20, 30, 101], None),
        ([-1, 20, 30, 40], None),
        (["10", 20, 30, 40], None),
        ({"x0": 10}, None),
        (None, None),
    ],
)
def test_a_drawn_box_or_none(corners: Any, box: Box | None) -> None:
    assert box_of({"box": corners}) == box


@pytest.mark.parametrize("value", [None, "box", [10, 20, 30, 40], {}])
def test_what_no_browser_of_ours_sends_is_no_box(value: Any) -> None:
    assert box_of(value) is None


def test_the_stage_gets_each_picture_once_and_the_box_on_the_grid() -> None:
    red, blue = picture(), picture("blue")
    assert tool_value(None) == {"pictures": [], "current": "", "box": None, "clear": True}
    value = tool_value(blue, attached=[red, blue], box=Box(0.29, 0, 0.57, 1))
    assert value == {
        "pictures": [{"key": one.key, "uri": one.preview_uri} for one in (red, blue)],
        "current": blue.key,
        "box": [29, 0, 57, 100],
        "clear": False,
    }
    assert tool_value(red, clear=True)["clear"]
    assert tool_value(red)["pictures"] == [{"key": red.key, "uri": ""}]  # which the page has since it was attached
