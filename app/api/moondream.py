"""The routes that moondream's clients ask, answered by whatever model is loaded: query, caption, detect, point.

Fields and results as in moondream's own cloud client, https://github.com/m87-labs/moondream-python
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.api.openai.answer_feed import AnswerFeed
from app.api.openai.api_errors import ApiError
from app.api.openai.body import read_json
from app.api.openai.completion import Completion
from app.api.openai.data_uris import uri_of
from app.api.openai.from_messages import Said, converse
from app.api.openai.responses import CLIENT_LEFT, EventStream, event, text_events, whole
from app.api.openai.routes import Service, start_stream
from app.api.openai.schema import CommonFields, SamplingFields, read_request, sampling_of
from app.api.openai.served import ServedModel, find_model
from app.chat.questions import NeedsImage
from models.errors import RequestError
from models.model_info import ModelInfo

DETAILED = "Describe this image in detail."
BRIEF = "Briefly describe this image."


class PictureRequest(CommonFields):
    """What all four take. `settings` hold the sampling; other keys of them are left alone."""

    image_url: str | None = None
    settings: SamplingFields | None = None


class Query(PictureRequest):
    """`task` is ours, as in chat completions."""

    question: str
    reasoning: bool | None = None
    spatial_refs: list[Any] | None = None
    task: str | None = None


class Caption(PictureRequest):
    """`length` chooses the prompt."""

    length: Literal["short", "normal", "long"] | None = None


class FindSettings(SamplingFields):
    """The sampling, and how many places are wanted at most."""

    max_objects: int | None = None


class Find(PictureRequest):
    """`object` is any phrase."""

    object: str
    settings: FindSettings | None = None
    spatial_refs: list[Any] | None = None


def moondream_router(service: Service) -> APIRouter:
    """`/v1/query`, `/v1/caption`, `/v1/detect`, `/v1/point`."""
    router = APIRouter(prefix="/v1")

    @router.post("/query")
    async def query(request: Request) -> Response:
        asked = read_request(Query, await read_json(request, service.budget))
        _refuse(asked, "reasoning", "spatial_refs")
        served = find_model(service.models, asked.model)
        return await _answer(service, request, served, asked, asked.question, asked.task, name="answer")

    @router.post("/caption")
    async def caption(request: Request) -> Response:
        asked = read_request(Caption, await read_json(request, service.budget))
        served = find_model(service.models, asked.model)
        prompt = caption_prompt(served.model.info, asked.length or "normal")
        return await _answer(service, request, served, asked, prompt, None, name="caption")

    @router.post("/detect")
    async def detect(request: Request) -> Response:
        def objects(boxes: list[tuple[float, ...]]) -> dict[str, Any]:
            names = ("x_min", "y_min", "x_max", "y_max")
            return {"objects": [dict(zip(names, box, strict=True)) for box in boxes]}

        return await _find(service, request, objects)

    @router.post("/point")
    async def point(request: Request) -> Response:
        def points(boxes: list[tuple[float, ...]]) -> dict[str, Any]:
            return {"points": [{"x": (x0 + x1) / 2, "y": (y0 + y1) / 2} for x0, y0, x1, y1 in boxes]}

        return await _find(service, request, points)

    return router


def caption_prompt(info: ModelInfo, length: Literal["short", "normal", "long"]) -> str:
    """What the family was trained to be asked for a caption of this length."""
    trained = next((task.prompt for task in info.tasks if task.identifier == "[caption]"), None)
    if trained is None:
        return BRIEF if length == "short" else DETAILED
    return DETAILED if length == "long" else trained


def finding_task(info: ModelInfo) -> str:
    """The task that finds every place of a phrase, or the one that finds a place. Raises ApiError without either."""
    there = [task.identifier for task in info.tasks if task.gives_boxes]
    found = next((name for name in ("[detection]", "[refer]") if name in there), None)
    if found is None:
        raise ApiError(400, f"{info.name} was not trained to find objects.", code="unsupported_by_model")
    return found


async def _find(
    service: Service, request: Request, result: Callable[[list[tuple[float, ...]]], dict[str, Any]]
) -> Response:
    asked = read_request(Find, await read_json(request, service.budget))
    _refuse(asked, "spatial_refs")
    if asked.image_url is None:
        raise ApiError(400, "image_url is missing.", code="missing_image", param="image_url")
    served = find_model(service.models, asked.model)
    settings = asked.settings = asked.settings or FindSettings()
    if settings.temperature is None:
        settings.temperature = 0.0  # a place is no matter of chance
    feed, completion = await _ask(service, served, asked, asked.object, finding_task(served.model.info), "object")
    if not await whole(request, feed, completion):
        return Response(status_code=CLIENT_LEFT)
    boxes = [tuple(region["bbox"]) for region in completion.regions()][: settings.max_objects]
    return JSONResponse({"request_id": completion.id, **result(boxes)})


async def _answer(
    service: Service,
    request: Request,
    served: ServedModel,
    asked: PictureRequest,
    question: str,
    task: str | None,
    *,
    name: str,
) -> Response:
    """A text, under `name`, at once or in events."""
    feed, completion = await _ask(service, served, asked, question, task, "question")

    async def events() -> AsyncIterator[bytes]:
        async for one in text_events(feed, completion, service.explain, lambda new: {"chunk": new, "completed": False}):
            yield one
        if completion.finish_reason is not None:
            yield event({"chunk": "", "completed": True, "request_id": completion.id, name: completion.text})

    if asked.stream:
        return await start_stream(feed, lambda: EventStream(events(), feed))
    if not await whole(request, feed, completion):
        return Response(status_code=CLIENT_LEFT)
    return JSONResponse({"request_id": completion.id, name: completion.text, "finish_reason": completion.finish_reason})


async def _ask(
    service: Service, served: ServedModel, asked: PictureRequest, question: str, task: str | None, param: str
) -> tuple[AnswerFeed, Completion]:
    """Begin to answer a question about a picture; `param` is the field that the question came in."""
    sampling = sampling_of(asked.settings or SamplingFields(), served.model.info.sampling)
    uris = [] if asked.image_url is None else [(uri_of(asked.image_url, "image_url"), "image_url")]
    try:
        conversation = await service.prepare(
            lambda: converse(served.model, [Said(texts=[question], uris=uris)], task, service.budget)
        )
    except ApiError as error:
        if error.param == "messages":
            error.param = "image_url" if isinstance(error.__cause__, NeedsImage) else param
        raise
    except RequestError as error:
        raise ApiError(400, str(error), code="invalid_question", param=param) from error
    return service.ask(served, conversation, sampling), Completion(served.id, conversation)


def _refuse(asked: Query | Find, *names: str) -> None:
    for name in names:
        if getattr(asked, name):
            raise ApiError(
                400, f"{name} is not supported here; leave it out.", code="unsupported_parameter", param=name
            )
