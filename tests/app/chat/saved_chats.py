"""Saved chats, opened as the page opens them."""

from __future__ import annotations

import json
from typing import Any

from app.chat.exchange import Exchange
from app.chat.saved import read_chat
from tests.fakes import ScriptedModel

NOW = "2026-11-29T12:00:00+00:00"


def opened(data: Any, model: ScriptedModel | None = None) -> list[Exchange]:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return read_chat(text, model or ScriptedModel(), name="chat.json")
