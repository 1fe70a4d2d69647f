"""What another server says is wrong, as one line of ours."""

from __future__ import annotations

import json
from typing import Any

from models.errors import Busy, ContextOverflow, MiniVLMError, RequestError, ServerFailed, ServerLoading

MAX_CHARACTERS = 300  # of what a server says
TOO_LONG = "context_length_exceeded"  # the code of OpenAI's API
SAYS_NO_PICTURES = "image input is not supported"  # llama.cpp, as a failure of its own, which clients would try again
# How servers say it that have no such code: llama.cpp, vLLM, SGLang.
SAYS_TOO_LONG = ("available context size", "maximum context length", "model's context length")


def http_error(
    status: int, body: bytes, *, where: str, retry_after: str = "", location: str = "", key: str | None = None
) -> MiniVLMError:
    """The error for a response that is none. `where` is the server's address, `key` is never repeated."""
    said, code = said_by(body)
    said = without_key(said, key)
    reason = f": {said}" if said else "."
    match status:
        case 401 | 403:
            wanted = "wants a key" if key is None else "does not take this key"
            return ServerFailed(f"{where} {wanted} ({status}); give one with --server-key{reason}")
        case 404:
            return ServerFailed(f"{where} has no such model or route (404), see --server-url, --server-model{reason}")
        case 413:
            return RequestError(f"{where} takes no request of this size (413); use a smaller picture{reason}")
        case 429:
            seconds = f"in {retry_after} seconds" if retry_after.isdecimal() else "in a moment"
            return Busy(f"{where} has too many questions already (429); ask again {seconds}{reason}")
        case 503:
            return ServerLoading(f"{where} can't answer yet (503); it may still be loading its model{reason}")
    if 300 <= status < 400:
        to = f" to {location[:200]}" if location else ""
        return ServerFailed(f"{where} sends elsewhere{to} ({status}): give the address that answers itself.")
    if code == TOO_LONG:
        return ContextOverflow(f"{where} can't read a conversation of this length; begin a new chat{reason}")
    if status < 500 or SAYS_NO_PICTURES in said:
        return RequestError(f"{where} refused the question ({status}){reason}")
    return ServerFailed(f"{where} failed ({status}){reason}")


def event_error(value: Any, *, where: str, key: str | None) -> MiniVLMError:
    """The error that came as an event of a stream."""
    said, code = _said(value)
    said = without_key(said, key) or "no reason was given"
    kind = ContextOverflow if code == TOO_LONG else ServerFailed
    return kind(f"{where} stopped with an error: {said}")


def said_by(body: bytes) -> tuple[str, str]:
    """The message of a response in one line, and its code; of what is no JSON, its beginning."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        text = body[: 4 * MAX_CHARACTERS].decode("utf-8", "replace")
        return ("" if "<" in text[:20] else one_line(text)), ""  # a web page says nothing in its beginning
    return _said(value)


def _said(value: Any) -> tuple[str, str]:
    said, code = _message(value)
    return said, TOO_LONG if any(words in said for words in SAYS_TOO_LONG) else code


def _message(value: Any) -> tuple[str, str]:
    """In the forms of OpenAI, vLLM, Ollama and FastAPI."""
    code = ""
    for name in ("error", "detail", "message"):
        inner = value.get(name) if isinstance(value, dict) else None
        if inner:
            code = str(value.get("code") or code)
            return _message(inner) if isinstance(inner, dict) else (one_line(str(inner)), code)
    return one_line(value) if isinstance(value, str) else "", code


def one_line(text: str) -> str:
    """Text on one line, cut after MAX_CHARACTERS."""
    line = " ".join(text[: 4 * MAX_CHARACTERS].split())
    return line if len(line) <= MAX_CHARACTERS else f"{line[:MAX_CHARACTERS]}…"


def without_key(text: str, key: str | None) -> str:
    """Some servers repeat the key that they refuse."""
    return text.replace(key, "…") if key else text
