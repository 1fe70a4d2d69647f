"""What names a conversation: the client, or what all of its questions have in common."""

from __future__ import annotations

from typing import Any

from PIL import Image

from app.cluster.affinity import MOST_CHARACTERS, SessionHeader, session_of
from models.conversation import Turn
from tests.waiting import in_a_loop

RED, BLUE = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))


def test_a_conversation_keeps_its_name() -> None:
    first = [Turn("user", "What is it?", (RED,))]
    later = [*first, Turn("assistant", "A square."), Turn("user", "And its colour?")]
    assert session_of(first) == session_of(later)


def test_others_have_other_names() -> None:
    questions = [
        Turn("user", "What is it?", (RED,)),
        Turn("user", "What is it?", (BLUE,)),
        Turn("user", "What is it?", (RED, BLUE)),
        Turn("user", "What is it?", (RED.resize((4, 16)),)),
        Turn("user", "What?", (RED,)),
        Turn("user", "What is it?"),
    ]
    assert len({session_of([turn]) for turn in questions}) == len(questions)


def test_a_client_may_name_it() -> None:
    names: list[str] = []

    async def app(*_: Any) -> None:
        names.append(session_of([Turn("user", "What is it?")]))

    async def ask(*headers: tuple[bytes, bytes]) -> None:
        await SessionHeader(app)({"type": "http", "headers": headers}, None, None)  # type: ignore[arg-type]

    async def both() -> None:
        await ask((b"X-Session-Id", b"mine"))
        await ask((b"x-session-id", b"y" * 10_000))
        await ask()

    in_a_loop(both())
    assert names[:2] == ["mine", "y" * MOST_CHARACTERS]
    assert names[2] == session_of([Turn("user", "What is it?")])
