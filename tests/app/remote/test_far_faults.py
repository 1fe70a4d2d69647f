"""Every error of another server is a line of ours, and what is only unusual is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.chat.session import ChatSession
from app.remote import answer, events
from models.conversation import Answer, Sampling
from models.errors import Busy, ContextOverflow, MiniVLMError, RequestError, ServerFailed, ServerLoading
from tests.app.far_server import (
    FarServer,
    Reply,
    begin,
    chunk,
    event,
    forever,
    raw,
    refuse,
    send_json,
    stream,
    wait,
)
from tests.app.helpers import picture
from tests.app.remote.asking import ask
from tests.app.remote.conftest import Connect
from tests.waiting import eventually


def cut_off(first: str) -> Reply:
    """A stream that announces more than it sends."""

    def reply(handler: object) -> None:
        begin(handler, 200, "text/event-stream", content_length="100000")  # type: ignore[arg-type]
        if first:
            event(handler, chunk(first))  # type: ignore[arg-type]

    return reply


ERRORS: list[tuple[str, Reply, type[MiniVLMError], str]] = [
    ("401", refuse(401, {"error": {"message": "Bad key sk-secret"}}), ServerFailed, "(401)"),
    ("403", refuse(403, "no"), ServerFailed, "does not take this key (403)"),
    (
        "404",
        refuse(404, {"error": "model 'x' not found"}),
        ServerFailed,
        "(404), see --server-url, --server-model: model",
    ),
    ("413", refuse(413, {"detail": "too large"}), RequestError, "(413)"),
    ("429", refuse(429, {"error": {"message": "full"}}, retry_after="7"), Busy, "ask again in 7 seconds: full"),
    ("429 with a date", refuse(429, {}, retry_after="Sun, 29 Nov"), Busy, "ask again in a moment"),
    ("503", refuse(503, {"error": {"message": "Loading model"}}), ServerLoading, "loading its model: Loading model"),
    ("500", refuse(500, "<html>trace"), ServerFailed, "failed (500)."),
    (
        "400",
        refuse(400, {"object": "error", "message": "no\nvision"}),
        RequestError,
        "refused the question (400): no vision",
    ),
    ("422", refuse(422, {"detail": [{"msg": "bad"}]}), RequestError, "(422)"),
    (
        "too long",
        refuse(400, {"error": {"message": "long", "code": "context_length_exceeded"}}),
        ContextOverflow,
        "begin a new chat: long",
    ),
    (
        "too long for llama.cpp",
        refuse(
            400,
            {
                "error": {
                    "code": 400,
                    "message": "request (12019 tokens) exceeds the available context size (512 tokens)",
                    "type": "exceed_context_size_error",
                }
            },
        ),
        ContextOverflow,
        "begin a new chat: request (12019 tokens)",
    ),
    (
        "too long for vLLM",
        refuse(400, {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400}),
        ContextOverflow,
        "begin a new chat: This model's maximum",
    ),
    (
        "no pictures at llama.cpp",
        refuse(
            500, {"error": {"code": 500, "message": "image input is not supported - hint: …", "type": "server_error"}}
        ),
        RequestError,
        "refused the question (500): image input is not supported",
    ),
    ("elsewhere", refuse(301, "", location="http://other/"), ServerFailed, "sends elsewhere to http://other/"),
    ("a page", raw(b"<html>hello", "text/html"), ServerFailed, "answered with text/html"),
    ("no JSON", raw(b"data: {nonsense\n\n"), ServerFailed, "no chat completion: '{nonsense'"),
    ("nested JSON", raw(b"data: " + b"[" * 100_000 + b"\n\n"), ServerFailed, "no chat completion"),
    ("other JSON", raw(b'data: {"a": 1}\n\n'), ServerFailed, "no chat completion"),
    ("an empty body", raw(b""), ServerFailed, "lost before the answer began (its stream ended)"),
    ("an event", raw(b'data: {"error": {"message": "out of memory"}}\n\n'), ServerFailed, "error: out of memory"),
    ("an event without its end", raw(b'data: {"error": "x"}\n'), ServerFailed, "error: x"),
    ("the end too early", stream(["A red"], reason="", done=False), ServerFailed, "in the middle of the answer"),
    ("cut at once", cut_off(""), ServerFailed, "before the answer began"),
    ("cut", cut_off("A red"), ServerFailed, "in the middle of the answer"),
    ("a line without end", forever(b"x" * 65536, b"data: "), ServerFailed, "a line of more than"),
]


@pytest.mark.parametrize(("reply", "kind", "words"), [one[1:] for one in ERRORS], ids=[one[0] for one in ERRORS])
def test_an_error_is_one_line(
    far: FarServer, connect: Connect, reply: Reply, kind: type[MiniVLMError], words: str
) -> None:
    far.replies = [reply]
    with pytest.raises(kind) as raised:
        ask(connect(far.url, key="sk-secret"))
    line = str(raised.value)
    assert type(raised.value) is kind
    assert words in line
    assert "\n" not in line
    assert "sk-secret" not in line
    assert far.url in line


def test_what_was_said_before_a_cut_stays(far: FarServer, connect: Connect) -> None:
    far.replies = [cut_off("A red")]
    session = ChatSession()
    *_, exchange = session.ask(connect(far.url), "What is it?", [picture()])
    assert (exchange.text, exchange.is_running) == ("A red", False)
    assert "in the middle of the answer" in exchange.error


def test_a_server_that_has_gone(far: FarServer, connect: Connect) -> None:
    model = connect(far.url)
    object.__setattr__(model._served.config, "server_url", "http://127.0.0.1:9/v1")
    with pytest.raises(ServerFailed, match="Nothing answers at http"):
        ask(model)


def test_silence_has_an_end_and_pings_do_not_count(far: FarServer, connect: Connect) -> None:
    far.replies = [wait("A red")]
    with pytest.raises(ServerFailed, match=r"no new text for 0\.3 seconds"):
        ask(connect(far.url, timeout=0.3))
    assert eventually(lambda: far.num_left == 1)


def test_an_answer_without_end_is_cut(far: FarServer, connect: Connect) -> None:
    far.replies = [forever(f"data: {chunk('word ' * 100)}\n\n".encode())]
    last = ask(connect(far.url), sampling=Sampling(max_new_tokens=10, repetition_penalty=1.0))
    assert last.finish_reason == "length"
    assert len(last.text) <= 10 * answer.CHARACTERS_PER_TOKEN
    assert "far beyond the limit" in last.notices[-1]


def test_a_stream_of_nothing_has_an_end(far: FarServer, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_BYTES", 2**20)
    far.replies = [forever(b": ping\n\n" * 1000)]
    with pytest.raises(ServerFailed, match="no end of its answer"):
        ask(connect(far.url))


# What is unusual and right ------------------------------------------------------------


def whole(handler: object) -> None:
    message = {
        "role": "assistant",
        "content": [{"type": "text", "text": "A whole"}, {"type": "text", "text": " answer"}],
    }
    send_json(handler, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": None})  # type: ignore[arg-type]


UNUSUAL: list[tuple[str, Reply, Callable[[Answer], bool]]] = [
    ("not streamed", whole, lambda last: last.text == "A whole answer"),
    ("no DONE", stream(["a"], done=False), lambda last: (last.text, last.finish_reason) == ("a", "stop")),
    ("no reason", stream(["a"], reason=""), lambda last: (last.text, last.finish_reason) == ("a", "stop")),
    ("too long", stream(["a"], reason="length"), lambda last: last.finish_reason == "length"),
    ("filtered", stream(["a"], reason="content_filter"), lambda last: "content_filter" in last.notices[0]),
    (
        "thoughts",
        raw(f"data: {chunk('a', reasoning_content='hmm')}\n\ndata: {chunk(None, 'stop')}\n\n".encode()),
        lambda last: last.text == "a" and "thought first (3 characters" in last.notices[0],
    ),
    ("carriage returns", raw(f"data:{chunk('a', 'stop')}\r\n\r\n".encode()), lambda last: last.text == "a"),
    ("no empty line", raw(f"data: {chunk('a', 'stop')}".encode()), lambda last: last.text == "a"),
    ("half characters", raw(b'data: {"choices":[{"delta":{"content":"\\ud83d"},"finish_reason":"stop"}]}\n\n'),
     lambda last: last.text == "\ufffd"),
    ("null", raw(b'data: {"choices":[{"delta":{"content":null},"finish_reason":"stop"}]}\n\n'),
     lambda last: last.text == ""),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "holds"), [one[1:] for one in UNUSUAL], ids=[one[0] for one in UNUSUAL])
def test_what_other_servers_do(far: FarServer, connect: Connect, reply: Reply, holds: Callable[[Answer], bool]) -> None:
    far.replies = [reply]
    last = ask(connect(far.url))
    assert holds(last), last


def test_bytes_that_come_one_by_one(far: FarServer, connect: Connect) -> None:
    data = f"data: {chunk('día 🎈', 'stop')}\n\ndata: [DONE]\n\n".encode()

    def reply(handler: object) -> None:
        begin(handler)  # type: ignore[arg-type]
        for number in range(len(data)):
            handler.wfile.write(data[number : number + 1])  # type: ignore[attr-defined]
            handler.wfile.flush()  # type: ignore[attr-defined]

    far.replies = [reply]
    assert ask(connect(far.url)).text == "día 🎈"
