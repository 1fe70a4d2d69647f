"""The routes that OpenAI's clients ask: models and chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.api.openai.answer_feed import AnswerEnded, AnswerFeed
from app.api.openai.api_errors import ApiError
from app.api.openai.body import Budget, read_json
from app.api.openai.completion import Completion
from app.api.openai.from_messages import Conversation, read_conversation
from app.api.openai.responses import (
    CLIENT_LEFT,
    EventStream,
    completion_events,
    completion_response,
    explain_error,
    first_answer,
)
from app.api.openai.schema import ChatRequest, read_request, sampling_of
from app.api.openai.served import ServedModel, ServedModels, check_ready, find_model
from app.chat.answering import with_seed
from app.limits.fair_queue import Lanes
from engine.asker import ASKER
from models.conversation import Sampling

MAX_PREPARING = 4  # requests whose pictures are decoded at once; others wait, and the page does not notice
MOST_PREPARING = MAX_PREPARING - 1  # of one address
MAX_WAITING = 1024  # of one address; the layer in front of the server lets fewer in


@dataclass
class Service:
    """What all routes share: the models, and the limits of all requests together."""

    models: ServedModels
    budget: Budget = field(default_factory=Budget)
    preparing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_PREPARING))
    clients: Lanes = field(default_factory=lambda: Lanes(MOST_PREPARING, MAX_WAITING))

    async def prepare(self, read: Callable[[], Conversation]) -> Conversation:
        """What `read` gives, in a thread of its own."""
        busy = "Too many requests from this address wait for their pictures. Ask again in a moment."
        async with self.clients.held(ASKER.get().client, busy), self.preparing:
            return await asyncio.to_thread(read)

    def ask(self, served: ServedModel, asked: Conversation, sampling: Sampling) -> AnswerFeed:
        """Begin to answer. The conversation's bytes are given back at its end."""

        def done() -> None:
            self.budget.give_back(asked.num_bytes)

        return AnswerFeed(served.model, asked.turns, with_seed(sampling), on_close=done)

    def explain(self, error: BaseException) -> ApiError:
        """The error of the API for what was raised; while the server stops, that is the reason of all."""
        if isinstance(error, ApiError):
            return error
        try:
            check_ready(self.models)
        except ApiError as reason:
            return reason
        return explain_error(error)


def openai_router(service: Service) -> APIRouter:
    """`/v1/models`, `/v1/models/{id}`, `/v1/chat/completions`."""
    router = APIRouter()

    @router.get("/v1/models")
    async def models() -> Response:
        check_ready(service.models)
        served = [one.as_json() for one in service.models.served()]
        return JSONResponse({"object": "list", "data": [*served, *service.models.others()]})

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return JSONResponse(find_model(service.models, name).as_json())

    @router.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = await read_json(request, service.budget)
        asked = read_request(ChatRequest, body)
        served = find_model(service.models, asked.model)
        sampling, stops = sampling_of(asked, served.model.info.sampling), asked.stops
        conversation = await service.prepare(
            lambda: read_conversation(
                served.model, asked.messages, asked.task, service.budget, reads_text=asked.read_text
            )
        )
        completion = Completion(served.id, conversation, stops)
        feed = service.ask(served, conversation, sampling)
        if not asked.stream:
            return await completion_response(request, feed, completion)
        return await start_stream(
            feed,
            lambda: EventStream(
                completion_events(feed, completion, with_usage=asked.wants_usage, explain=service.explain), feed
            ),
        )

    return router


async def start_stream(feed: AnswerFeed, make: Callable[[], Response]) -> Response:
    """The response once the answer has begun; what is raised until then closes the answer."""
    try:
        await first_answer(feed)
        return make()
    except AnswerEnded:
        return Response(status_code=CLIENT_LEFT)
    except BaseException:
        feed.close()
        raise
