"""The named endpoint `/chat` for programs (gradio_client or plain HTTP): an image and a text in, an answer out.

All values have names and defaults. It keeps nothing between calls: earlier turns come along as `history`. Models with
extras (OCR, drawn pictures) have two more inputs and two more outputs than the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from app.api.chat_values import NAME
from app.chat.exchange import Exchange, IllustratedAnswer, WantedExtras
from app.chat.pictures import open_picture
from app.chat.regions import entities_of, parse_answer, regions_data
from app.chat.session import ChatSession
from engine.chat_model import ChatModel
from models.conversation import Answer, Sampling
from models.errors import MiniVLMError, RequestError
from models.model_info import ModelInfo
from models.sampling_settings import SamplingSetting, settings_of

CHARACTERS_PER_TOKEN = 100  # of a history: far more than any text has, so that what is refused could never be read


def add_chat_endpoint(model: ChatModel, *, concurrency_limit: int) -> None:
    """Add `/chat` to the page that is being built; its components exist for their types and are never shown."""
    info = model.info
    settings = _settings(info)
    with gr.Group(visible=False):
        inputs, outputs = _components(info)
        button = gr.Button()

    def chat(
        image: str | None = None, text: str = "", history: list[dict[str, str]] | None = None, *values: Any
    ) -> Iterator[tuple[Any, ...]]:
        """Ask about an image (or without one); yields the answer as it grows, with the regions it names.

        `history` holds earlier turns as {"role": "user" | "assistant", "content": text}; the image belongs to the
        first of them. What the model's context does not hold is left out, oldest turns first; a history many times
        longer than that is refused.

        Mini-Gemini only: `read_text` and `draw_picture` hold for every question; the third output is the drawn picture
        once it is there, the fourth says what was read and why there is no picture.
        """
        given = {one.name: value for one, value in zip(settings, values, strict=False)}
        extras = WantedExtras(reads_text=given.pop("read_text", False), wants_picture=given.pop("draw_picture", False))
        sampling = replace(info.sampling, **given)
        try:
            for exchange, size in answers(model, image, text or "", history or [], sampling, extras):
                if exchange.error:
                    raise RequestError(exchange.error)
                yield _results(exchange, size)[: len(outputs)]
        except MiniVLMError as error:
            raise gr.Error(str(error), print_exception=False) from error

    # gradio takes the names of the values, and which may be left out, from the signature.
    named = [one for one in inspect.signature(chat).parameters.values() if one.kind is not one.VAR_POSITIONAL]
    chat.__signature__ = inspect.Signature([*named, *settings])  # type: ignore[attr-defined]
    button.click(
        chat,
        inputs,
        outputs,
        api_name=NAME,
        api_description="Ask about an image; streams the answer and its regions.",
        concurrency_limit=concurrency_limit,
        concurrency_id="answers",
    )


def _settings(info: ModelInfo) -> list[inspect.Parameter]:
    """The values after image, text and history: sampling settings, and extras whether or not the model has them."""
    defaults = {one.name: _default(one, info) for one in settings_of(info.sampling)}
    defaults |= {"read_text": False, "draw_picture": False}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [inspect.Parameter(name, kind, default=default) for name, default in defaults.items()]


def _default(setting: SamplingSetting, info: ModelInfo) -> float | None:
    """The family's own value of a setting; None for the seed, as who names none wants another one each time."""
    return None if setting.when_empty else getattr(info.sampling, setting.name)


def _components(info: ModelInfo) -> tuple[list[gr.components.Component], list[gr.components.Component]]:
    """What goes in and what comes out; the last two of each only where the model has extras."""
    offered = info.extras
    inputs: list[gr.components.Component] = [
        gr.File(type="filepath", file_types=["image"], label="image"),
        gr.Textbox("", label="text"),
        gr.JSON(value=[], label="history"),
    ]
    inputs += [
        gr.Number(_default(setting, info), precision=0 if setting.is_whole else None, label=setting.name)
        for setting in settings_of(info.sampling)
    ]
    outputs: list[gr.components.Component] = [gr.Textbox(label="answer"), gr.JSON(label="regions")]
    if offered is not None:
        inputs += [gr.Checkbox(offered.ocr, label="read_text"), gr.Checkbox(offered.generate, label="draw_picture")]
        outputs += [gr.Image(label="picture", format="png"), gr.JSON(label="notices")]
    return inputs, outputs


def _results(exchange: Exchange, size: tuple[int, int] | None) -> tuple[Any, ...]:
    """Answer, regions, drawn picture and notices of an exchange about an image of this width and height."""
    entities = entities_of(parse_answer(exchange.text, exchange.phrase, exchange.spans))
    regions = regions_data(entities, size=size) if size else {}
    answer = exchange.answer or Answer(text="")
    picture = answer.picture if isinstance(answer, IllustratedAnswer) else None
    return exchange.text, regions, picture, list(answer.notices)


def answers(
    model: ChatModel,
    image: str | None,
    text: str,
    history: list[dict[str, str]],
    sampling: Sampling,
    extras: WantedExtras,
) -> Iterator[tuple[Exchange, tuple[int, int] | None]]:
    """The exchange as it grows, with the width and height in pixels of the image it is about."""
    pictures = [open_picture(image)] if image else []
    session = ChatSession()
    session.exchanges = past_exchanges(model, history, extras)
    if session.exchanges and pictures:
        session.exchanges[0].pictures = tuple(pictures)
        pictures = []
    for exchange in session.ask(model, text, pictures, sampling, extras=extras):
        picture = session.picture_of(len(session.exchanges) - 1)
        yield exchange, picture.size if picture else None


def past_exchanges(model: ChatModel, history: list[dict[str, str]], extras: WantedExtras) -> list[Exchange]:
    """Earlier turns, which must alternate and begin with the user; each asked for the extras of this call.

    Raises RequestError for a history of another form, or one too long for the model whatever its tokens are.
    """
    exchanges: list[Exchange] = []
    num_characters, context = 0, model.info.context_tokens
    for index, turn in enumerate(history):
        is_turn = isinstance(turn, dict) and isinstance(turn.get("content"), str)
        if not is_turn or turn.get("role") != ("user", "assistant")[index % 2]:
            raise RequestError('history must hold {"role", "content"} turns of user and assistant by turns.')
        num_characters += len(turn["content"])
        if index >= context or num_characters > CHARACTERS_PER_TOKEN * context:
            raise RequestError(
                f"history is too long: {len(history)} turns, of which the model reads {context} tokens at most, the "
                f"newest. Leave the oldest out."
            )
        if index % 2 == 0:
            exchanges.append(Exchange(model.neutralise(turn["content"]), (), sampling=Sampling(), extras=extras))
        else:
            exchanges[-1].answer = Answer(text=turn["content"], finish_reason="stop")
    if len(history) % 2:
        raise RequestError("history must end with an answer; the new question goes into text.")
    return exchanges
