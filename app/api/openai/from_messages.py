"""The messages of a request as turns, by the rules of the page, so that both get the same answers."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.api.openai.api_errors import ApiError
from app.api.openai.body import Budget
from app.api.openai.data_uris import MAX_PICTURES, picture_of, uri_of
from app.chat.exchange import Exchange, WantedExtras, usual_extras
from app.chat.normaliser import normalise
from app.chat.pictures import Picture
from app.chat.questions import (
    MAX_QUESTION_CHARACTERS,
    asked_phrase,
    check_number_of_images,
    check_question,
    question_part,
    task_of,
    with_task,
)
from app.chat.session import ChatSession
from engine.chat_model import ChatModel
from models.conversation import Answer, Sampling, Turn
from models.errors import RequestError
from models.model_info import ModelInfo
from models.tasks import Task

CHARACTERS_PER_TOKEN = 100  # far more than any text has, so that what is refused could never be read
QUESTION_ROLES = ("user", "tool")
INSTRUCTION_ROLES = ("system", "developer")


@dataclass
class Said:
    """A question with its answer, as the messages have them. `uris` are its pictures, each with where it stands."""

    instructions: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    uris: list[tuple[str, str]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    is_answered: bool = False


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What the model is asked. `picture` is the one the answer is about, `picture_number` its place among all, from 0.

    `num_bytes` are held of the budget; `phrase` is what boxes without one of their own show; `notices` say
    what of the request the model will not see.
    """

    turns: tuple[Turn, ...]
    picture: Picture | None = None
    picture_number: int = 0
    num_bytes: int = 0
    phrase: str = ""
    notices: tuple[str, ...] = ()


def read_conversation(
    model: ChatModel,
    messages: Sequence[dict[str, Any]],
    task: str | None,
    budget: Budget,
    *,
    reads_text: bool | None = None,
) -> Conversation:
    """The conversation of these messages, whose last is the question; `task` puts its identifier in front of that.

    `reads_text` in pictures, by OCR: None does as the page does at first.

    What the system or the developer says goes in front of the next question, after its task identifier: these models
    were trained with one system prompt, which always stands. Raises ApiError; and RequestError for
    what the page would refuse, too.
    """
    return converse(model, _exchanges(messages, model.info), task, budget, reads_text=reads_text)


def converse(
    model: ChatModel, exchanges: Sequence[Said], task: str | None, budget: Budget, *, reads_text: bool | None = None
) -> Conversation:
    """As `read_conversation`, of questions with their answers; the last has none."""
    info = model.info
    if reads_text and info.extras is None:
        raise ApiError(400, f"{info.name} has no OCR.", code="unsupported_by_model", param="read_text")
    # A program has no use for a picture that is drawn for it, as none can be in the response.
    extras = WantedExtras(reads_text=usual_extras(info).reads_text if reads_text is None else reads_text)
    first = _first_seen(exchanges, info)
    session = ChatSession()
    num_bytes = 0
    try:
        for index, said in enumerate(exchanges):
            pictures: list[Picture] = []
            for uri, param in said.uris if index >= first else []:
                picture = picture_of(uri, param)
                size = picture.num_bytes
                budget.take(size)
                num_bytes += size
                pictures.append(picture)
            exchange = _exchange(model, said, pictures)
            exchange.extras, exchange.begins_anew = extras, index == first and index > 0
            session.exchanges.append(exchange)
        last = session.exchanges[-1]
        if task is not None:
            last.question = normalise(with_task(last.question, find_task(info, task), info.tasks), info.tasks)
        _check(session, info)
        phrase = asked_phrase(last.question, info.tasks)
        for exchange, said in zip(session.exchanges, exchanges, strict=True):
            exchange.question = _with_instructions(model, exchange.question, said.instructions)
    except BaseException:
        budget.give_back(num_bytes)
        raise
    index = len(exchanges) - 1
    return Conversation(
        turns=tuple(session.turns(index)),
        picture=session.picture_of(index),
        picture_number=sum(len(said.uris) for said in exchanges) - 1,
        num_bytes=num_bytes,
        phrase=phrase,
        notices=_left_out(first),
    )


def find_task(info: ModelInfo, name: str) -> Task:
    """The task of this name: its identifier without brackets, or its label. Raises ApiError for one it lacks."""
    wanted = name.strip().strip("[]").lower()
    for task in info.tasks:
        if wanted and wanted in (task.identifier.strip("[]").lower(), task.label.lower()):
            return task
    there = ", ".join(task.identifier.strip("[]") or task.label.lower() for task in info.tasks)
    message = f"{info.name} has no task {reprlib.repr(name)}; it has {there}."
    raise ApiError(400, message, code="unknown_task", param="task")


def _exchanges(messages: Sequence[dict[str, Any]], info: ModelInfo) -> list[Said]:
    """Questions with their answers; messages of one side that follow each other are one."""
    if len(messages) > info.context_tokens:
        raise _too_long(
            f"There are {len(messages)} messages, more than the model reads tokens ({info.context_tokens})."
        )
    exchanges = [Said()]
    num_characters = 0
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = message.get("role")
        text, uris = _content(message.get("content"), f"{where}.content")
        num_characters += len(text)
        if role == "assistant":
            if not exchanges[-1].texts and not exchanges[-1].uris:
                raise _wrong(f"{where} is an answer without a question before it.", where)
            if uris:
                raise _wrong(f"{where}: an answer can't hold pictures.", where)
            exchanges[-1].is_answered = True
            exchanges[-1].answers += [text] if text else []
        elif role in QUESTION_ROLES + INSTRUCTION_ROLES:
            if exchanges[-1].is_answered:
                exchanges.append(Said())
            heard = exchanges[-1].instructions if role in INSTRUCTION_ROLES else exchanges[-1].texts
            heard += [text] if text else []
            exchanges[-1].uris += uris
        else:
            roles = "system, developer, user, assistant or tool"
            raise _wrong(f"{where}.role is {reprlib.repr(role)}; it must be {roles}.", where)
    if messages[-1].get("role") not in QUESTION_ROLES:
        raise _wrong("The last message must be the user's.", f"messages[{len(messages) - 1}].role")
    if num_characters > CHARACTERS_PER_TOKEN * info.context_tokens:
        raise _too_long(f"The messages hold {num_characters} characters; the model reads {info.context_tokens} tokens.")
    num_pictures = sum(len(said.uris) for said in exchanges)
    if num_pictures > MAX_PICTURES:
        line = f"The messages hold {num_pictures} pictures; a request may hold {MAX_PICTURES}."
        raise ApiError(400, line, code="too_many_images", param="messages")
    return exchanges


def _content(content: Any, where: str) -> tuple[str, list[tuple[str, str]]]:
    """Text and pictures of a message's content: a text, a list of parts, or null."""
    if content is None or isinstance(content, str):
        return content or "", []
    if not isinstance(content, list):
        raise _wrong(f"{where} must be a text or a list of parts.", where)
    texts: list[str] = []
    uris: list[tuple[str, str]] = []
    for index, part in enumerate(content):
        place = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            param = f"{place}.image_url"
            uris.append((uri_of(part.get("image_url"), param), param))
        else:
            raise _wrong(f"{place} must be a text or an image_url part.", place)
    return "\n".join(texts), uris


def _first_seen(exchanges: Sequence[Said], info: ModelInfo) -> int:
    """The first exchange that the model sees: a family that was trained on one image per chat begins anew with each."""
    if not info.one_image_per_chat:
        return 0
    return max((index for index, said in enumerate(exchanges) if said.uris), default=0)


def _exchange(model: ChatModel, said: Said, pictures: list[Picture]) -> Exchange:
    question = normalise("\n".join(said.texts), model.info.tasks)
    exchange = Exchange(model.neutralise(question), tuple(pictures), Sampling())
    exchange.answer = Answer(text="\n".join(said.answers), finish_reason="stop") if said.is_answered else None
    return exchange


def _with_instructions(model: ChatModel, question: str, instructions: Sequence[str]) -> str:
    if not instructions:
        return question
    task = task_of(question, model.info.tasks)
    text = "\n".join([model.neutralise("\n".join(instructions).strip()), question_part(question, model.info.tasks)])
    return f"{task.identifier} {text}" if task else text


def _check(session: ChatSession, info: ModelInfo) -> None:
    """Raises what the page would say about these questions."""
    *earlier, last = session.exchanges
    for exchange in earlier:
        check_number_of_images(len(exchange.pictures), info)
    if len(last.question) > MAX_QUESTION_CHARACTERS:
        raise _too_long(f"The question has {len(last.question)} characters; the limit is {MAX_QUESTION_CHARACTERS}.")
    has_image = session.picture_of(len(earlier)) is not None
    try:
        check_question(last.question, info, num_images=len(last.pictures), has_image=has_image)
    except RequestError as error:
        raise ApiError(400, str(error), code="invalid_question", param="messages") from error


def _left_out(first: int) -> tuple[str, ...]:
    if not first:
        return ()
    questions = "question" if first == 1 else f"{first} questions"
    return (f"This model was trained on one image per chat: the {questions} before the last image went unread.",)


def _wrong(message: str, param: str) -> ApiError:
    return ApiError(400, message, code="invalid_messages", param=param)


def _too_long(message: str) -> ApiError:
    return ApiError(400, message, code="context_length_exceeded", param="messages")
