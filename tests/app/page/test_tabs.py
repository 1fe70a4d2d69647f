"""Which tabs leave a conversation when they go, without a browser."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from app.page.page_state import PageState
from app.page.tabs import forget_tab, unload_listener

PAGE: Any = SimpleNamespace(_id=1)


class Session(SimpleNamespace):
    def __getitem__(self, key: int) -> Any:
        return self.state_data[key]


@pytest.mark.parametrize(("other", "is_left"), [("open", False), ("closed", True), ("elsewhere", True)])
@pytest.mark.parametrize("way", ["unload", "forgotten"])
def test_the_last_tab_of_a_conversation_leaves_it(way: str, other: str, is_left: bool) -> None:
    shown, left = PageState(), list[PageState]()
    tabs = {
        "mine": Session(state_data={1: shown}, is_closed=True),
        "other": Session(state_data={1: PageState() if other == "elsewhere" else shown}, is_closed=other == "closed"),
    }
    demo: Any = SimpleNamespace(state_holder=SimpleNamespace(session_data=tabs))
    handlers: Any = SimpleNamespace(leave=left.append)
    if way == "unload":
        request: Any = SimpleNamespace(session_hash="mine")
        unload_listener(demo, handlers, PAGE)(request)
    else:
        forget_tab(demo, handlers, PAGE, shown)
    assert left == [shown] * is_left
