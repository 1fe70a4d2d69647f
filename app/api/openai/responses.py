"""How an answer leaves: whole, or as server-sent events. Either way a client that leaves ends it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.openai.answer_feed import AnswerEnded, AnswerFeed
from app.api.openai.api_errors import ApiError, api_error
from app.api.openai.completion import Completion
from models.errors import MiniVLMError

logger = logging.getLogger(__name__)

Explain = Callable[[BaseException], ApiError]
PING_SECONDS = 15.0  # of silence, after which a comment keeps proxies from closing the stream
START_SECONDS = 10.0  # after which a stream begins without an answer; until then an error has its own HTTP status
CLIENT_LEFT = 499  # nobody reads it; the name that web servers' logs know it by


async def first_answer(feed: AnswerFeed) -> None:
    """Wait until the answer has begun, or START_SECONDS. Raises what the model raises until then."""
    loop = asyncio.get_running_loop()
    end = loop.time() + START_SECONDS
    while (left := end - loop.time()) > 0:
        answer = await feed.next(left)
        if answer is not None and not answer.queue_number:
            feed.look_again()
            return


async def whole(request: Request, feed: AnswerFeed, completion: Completion) -> bool:
    """Read the answer until it is complete; False if the client left before."""
    watch = asyncio.create_task(_close_when_gone(request, feed))
    try:
        while True:
            answer = await feed.next()
            if answer is not None:
                completion.update(answer)
                if completion.finish_reason is not None:
                    return True
    except AnswerEnded:
        return False
    finally:
        watch.cancel()
        feed.close()


async def _close_when_gone(request: Request, feed: AnswerFeed) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    feed.close()


async def completion_response(request: Request, feed: AnswerFeed, completion: Completion) -> Response:
    """The answer as one `chat.completion`."""

    is_complete = await whole(request, feed, completion)
    return JSONResponse(completion.as_json()) if is_complete else Response(status_code=CLIENT_LEFT)


class EventStream(StreamingResponse):
    """Server-sent events of an answer, which is closed with the response, also where that never began."""

    def __init__(self, events: AsyncIterator[bytes], feed: AnswerFeed) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._feed.close()


def event(data: dict[str, Any] | str) -> bytes:
    """One event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


async def text_events(
    feed: AnswerFeed, completion: Completion, explain: Explain, wrap: Callable[[str], dict[str, Any]]
) -> AsyncIterator[bytes]:
    """An event for each new piece of text, and comments while there is none; `completion` says how it ended.

    An error that comes after the beginning of a stream is an event, and the last one.
    """
    try:
        while completion.finish_reason is None:
            answer = await feed.next(PING_SECONDS)
            if answer is None:
                yield b": still working\n\n"
                continue
            completion.update(answer)
            if new := completion.new_text():
                yield event(wrap(new))
    except AnswerEnded:
        return
    except Exception as error:
        yield event(explain(error).body)
    finally:
        feed.close()


async def completion_events(
    feed: AnswerFeed, completion: Completion, *, with_usage: bool, explain: Explain
) -> AsyncIterator[bytes]:
    """The chunks of a stream."""
    yield event(completion.chunk({"role": "assistant", "content": ""}))
    async for one in text_events(feed, completion, explain, lambda new: completion.chunk({"content": new})):
        yield one
    if completion.finish_reason is not None:
        yield event(completion.last_chunk())
        if with_usage:
            yield event(completion.usage_chunk())
        yield event("[DONE]")


def explain_error(error: BaseException) -> ApiError:
    """The error of the API for whatever was raised; a bug is logged."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MiniVLMError):
        return api_error(error)
    logger.error("An answer failed", exc_info=error)
    return ApiError(500, "Something went wrong in the program; its log has the details.", code="internal_error")
