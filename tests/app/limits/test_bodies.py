"""Bodies that are large, slow, deep or no JSON."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, cast

import pytest

from app.limits import bodies
from app.limits.bodies import MAX_DEPTH, MAX_PARTS, LimitedBody, Message, check_length, parse_object
from app.limits.guarded_request import GuardedRequest
from app.limits.policy import Limits
from app.limits.refusal import Refused
from tests.waiting import in_a_loop


def read(messages: list[Message | None], limit: int = 100, **changed: float) -> bytes:
    """Read a body that comes in these messages; None is a sender who falls silent."""
    given: Iterator[Message | None] = iter(messages)

    async def receive() -> Message:
        message = next(given)
        if message is None:
            await asyncio.sleep(60)
        assert message is not None
        return message

    limits = Limits(**changed)  # type: ignore[arg-type]
    body = LimitedBody(receive, limits, limit, lambda part: None)
    return in_a_loop(body.read())


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_read_to_its_end() -> None:
    assert read([part(b"a"), part(b"b", more=False)]) == b"ab"


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([part(b"x" * 60), part(b"x" * 60)], 413),
        ([part(b"x"), None], 408),
        ([part(b"x"), {"type": "http.disconnect"}], 400),
    ],
)
def test_what_is_wrong_with_a_body_is_said(messages: list[Message | None], status: int) -> None:
    with pytest.raises(Refused) as refused:
        read(messages, body_seconds=0.05)
    assert refused.value.status == status


@pytest.mark.parametrize("length", ["101", "9" * 40, "-1", "1e2", "٣"])
def test_an_announced_length_is_checked(length: str) -> None:
    scope = {"headers": [(b"content-length", length.encode("utf-8"))]}
    with pytest.raises(Refused):
        check_length(scope, 100)


def test_json_that_can_be_used() -> None:
    value = {"data": [None, "[[[{,,,", 'quote " and \\ and é', [[1.5]]], "fn_index": 0}
    assert parse_object(json.dumps(value).encode()) == value
    assert parse_object(json.dumps({"a": "[" * 100_000}).encode()) == {"a": "[" * 100_000}


def test_no_more_of_a_body_is_looked_at_than_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is served meanwhile: 4 MiB of `1,` took 150 ms."""
    looked_at = 0

    class Counted:
        def finditer(self, text: str) -> Iterator[re.Match[str]]:
            nonlocal looked_at
            for found in pattern.finditer(text):
                looked_at += 1
                yield found

    pattern = bodies._STRING_OR_STRUCTURE
    monkeypatch.setattr(bodies, "_STRING_OR_STRUCTURE", Counted())
    with pytest.raises(Refused, match="too many parts"):
        parse_object(b'{"a": [' + b"1," * 400_000 + b"1]}")
    assert looked_at < MAX_PARTS + 10
    looked_at = 0
    assert parse_object(b'{"a": ["' + b"\\u0041" * 10_000 + b'"]}') == {"a": ["A" * 10_000]}
    assert looked_at == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b"\xff",
        b'{"a": NaN}',
        b'{"a": 1' + b"0" * 400 + b"}",
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}",
        b'{"a": ' + b"[" * 100_000,
        b'{"a": [' + b"1," * 50_000 + b"1]}",
        b'{"' + b'[\\"' * 30_000,
    ],
)
def test_json_that_can_not(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_object(body)
    assert refused.value.status == 400


def test_a_long_answer_waits_for_its_reader_a_piece_at_a_time() -> None:
    """In one piece all of it lay in memory after the request had ended, so that no limit of requests held for it."""
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    request, sent = GuardedRequest(scope, "one", cast(Any, None)), list[dict[str, Any]]()

    async def send(message: Any) -> None:
        sent.append(message)

    request.send = send
    body = bytes(range(256)) * 3000
    in_a_loop(request.watched_send({"type": "http.response.start", "status": 200, "headers": []}))
    in_a_loop(request.watched_send({"type": "http.response.body", "body": body}))
    pieces = sent[1:]
    assert b"".join(piece["body"] for piece in pieces) == body
    assert max(len(piece["body"]) for piece in pieces) <= 2**18
    assert [piece["more_body"] for piece in pieces] == [True, True, False]
