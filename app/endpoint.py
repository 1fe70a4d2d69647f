"""The named endpoint `/chat` for programs (gradio_client or plain HTTP): an image and a text in, an answer out.

It keeps nothing between calls: earlier turns come along as `history`. Models with aids (OCR, drawn pictures) have two
more inputs and two more outputs than the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from app.aids import IllustratedAnswer, Wishes
from app.chat_model import ChatModel
from app.images import open_picture
from app.markup import regions_json
from app.overlay import entities_of
from app.session import ChatSession, Exchange
from models.conversation import Answer, Sampling
from models.errors import MiniVLMError, RequestError
from models.grounding import parse_grounded_text
from models.model_info import ModelInfo

CHARACTERS_PER_TOKEN = 100  # of a history: far more than any text has, so that what is refused could never be read


def add_chat_endpoint(model: ChatModel, *, concurrency_limit: int) -> None:
    """Add `/chat` to the page that is being built; its components exist for their types and are never shown."""
    defaults = model.info.sampling
    with gr.Group(visible=False):
        inputs, outputs = _components(model.info)
        button = gr.Button()

    def chat(
        image: str | None,
        text: str,
        history: list[dict[str, str]] | None = None,
        temperature: float = defaults.temperature,
        top_p: float = defaults.top_p,
        max_new_tokens: int = defaults.max_new_tokens,
        repetition_penalty: float = defaults.repetition_penalty,
        seed: int | None = None,
        read_text: bool = False,
        draw_picture: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Ask about an image (or without one); yields the answer as it grows, with the regions it names.

        `history` holds earlier turns as {"role": "user" | "assistant", "content": text}; the image belongs to the
        first of them. What the model's context does not hold is left out, oldest turns first; a history many times
        longer than that is refused.

        Mini-Gemini only: `read_text` and `draw_picture` hold for every question; the third output is the drawn picture
        once it is there, the fourth says what was read and why there is no picture.
        """
        sampling = Sampling(
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        wishes = Wishes(reads_text=read_text, wants_picture=draw_picture)
        try:
            for exchange, size in answers(model, image, text or "", history or [], sampling, wishes):
                if exchange.error:
                    raise RequestError(exchange.error)
                yield _results(exchange, size)[: len(outputs)]
        except MiniVLMError as error:
            raise gr.Error(str(error), print_exception=False) from error

    button.click(
        chat,
        inputs,
        outputs,
        api_name="chat",
        api_description="Ask about an image; streams the answer and its regions.",
        concurrency_limit=concurrency_limit,
        concurrency_id="answers",
    )


def _components(info: ModelInfo) -> tuple[list[gr.components.Component], list[gr.components.Component]]:
    """What goes in and what comes out; the last two of each only where the model has aids."""
    defaults, aids = info.sampling, info.aids
    inputs: list[gr.components.Component] = [
        gr.File(type="filepath", file_types=["image"], label="image"),
        gr.Textbox(label="text"),
        gr.JSON(value=[], label="history"),
        gr.Number(defaults.temperature, label="temperature"),
        gr.Number(defaults.top_p, label="top_p"),
        gr.Number(defaults.max_new_tokens, precision=0, label="max_new_tokens"),
        gr.Number(defaults.repetition_penalty, label="repetition_penalty"),
        gr.Number(None, precision=0, label="seed"),
    ]
    outputs: list[gr.components.Component] = [gr.Textbox(label="answer"), gr.JSON(label="regions")]
    if aids is not None:
        inputs += [gr.Checkbox(aids.ocr, label="read_text"), gr.Checkbox(aids.generate, label="draw_picture")]
        outputs += [gr.Image(label="picture", format="png"), gr.JSON(label="notices")]
    return inputs, outputs


def _results(exchange: Exchange, size: tuple[int, int] | None) -> tuple[Any, ...]:
    """Answer, regions, drawn picture and notices of an exchange about an image of this width and height."""
    entities = entities_of(parse_grounded_text(exchange.text))
    regions = json.loads(regions_json(entities, size=size)) if size else {}
    answer = exchange.answer or Answer(text="")
    picture = answer.picture if isinstance(answer, IllustratedAnswer) else None
    return exchange.text, regions, picture, list(answer.notices)


def answers(
    model: ChatModel,
    image: str | None,
    text: str,
    history: list[dict[str, str]],
    sampling: Sampling,
    wishes: Wishes,
) -> Iterator[tuple[Exchange, tuple[int, int] | None]]:
    """The exchange as it grows, with the width and height in pixels of the image it is about."""
    pictures = [open_picture(image)] if image else []
    session = ChatSession()
    session.exchanges = past_exchanges(model, history, wishes)
    if session.exchanges and pictures:
        session.exchanges[0].pictures = tuple(pictures)
        pictures = []
    for exchange in session.ask(model, text, pictures, sampling, wishes=wishes):
        picture = session.picture_of(len(session.exchanges) - 1)
        yield exchange, picture.image.size if picture else None


def past_exchanges(model: ChatModel, history: list[dict[str, str]], wishes: Wishes) -> list[Exchange]:
    """Earlier turns, which must alternate and begin with the user; each had the wishes of now.

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
            exchanges.append(Exchange(model.neutralise(turn["content"]), (), sampling=Sampling(), wishes=wishes))
        else:
            exchanges[-1].answer = Answer(text=turn["content"], finish_reason="stop")
    if len(history) % 2:
        raise RequestError("history must end with an answer; the new question goes into text.")
    return exchanges
