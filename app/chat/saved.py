"""A chat as one JSON file, and back: docs/using.md describes the format.

A file that is opened may come from a stranger. Nothing in it is believed: every field has a type and a limit, a field
that is not known is an error, pictures are decoded like uploads, and texts can't hold control tokens afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from app.chat.exchange import Exchange, IllustratedAnswer, Pair, WantedExtras
from app.chat.json_fields import Value, read_json
from app.chat.pictures import Picture
from app.chat.questions import MAX_QUESTION_CHARACTERS
from app.chat.regions import MAX_PHRASE_CHARACTERS, entities_of, parse_answer, regions_data
from app.chat.saved_pictures import (
    MAX_BYTES,
    MAX_LINE_CHARACTERS,
    MAX_PICTURES,
    picture_bytes,
    pictures_json,
    read_pictures,
)
from engine.chat_model import ChatModel
from models.conversation import Answer, Sampling
from models.errors import RequestError
from models.grounding import Box, BoxSpan
from models.sampling_settings import check, settings_of

FORMAT, VERSION = "minivlm-chat", 1
MAX_EXCHANGES = 1000
MAX_TEXT_BYTES = 4 * 2**20  # of a file without its pictures: the page that shows it takes up to twenty times as much
MAX_ANSWER_CHARACTERS = 200_000
MAX_SPANS = 10_000


def chat_json(exchanges: Sequence[Exchange], *, saved: str) -> str:
    """A conversation as JSON; `saved` is the moment in ISO 8601. Pictures are scaled down so that it can be opened."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "saved": saved,
        "pictures": pictures_json(_pictures_of(exchanges)),
        "exchanges": [_exchange_json(exchanges, index) for index in range(len(exchanges))],
    }
    return json.dumps(data, ensure_ascii=False, indent=1)


def _pictures_of(exchanges: Sequence[Exchange]) -> dict[str, Picture]:
    """Every picture of a conversation once, by its key; drawn ones as well."""
    asked = [picture for exchange in exchanges for picture in exchange.pictures]
    drawn = [picture for exchange in exchanges for one in exchange.answers if (picture := _drawn(one))]
    return {picture.key: picture for picture in [*asked, *drawn]}


def _drawn(exchange: Exchange) -> Picture | None:
    answer = exchange.answer
    return answer.drawn if isinstance(answer, IllustratedAnswer) else None


def _exchange_json(exchanges: Sequence[Exchange], index: int) -> dict[str, Any]:
    exchange = exchanges[index]
    return {
        "question": exchange.question,
        "pictures": [picture.key for picture in exchange.pictures],
        "phrase": exchange.phrase,
        "model": exchange.model,
        "asked": exchange.asked,
        "settings": _settings_json(exchange),
        "reads_text": exchange.extras.reads_text,
        "wants_picture": exchange.extras.wants_picture,
        "answer": _answer_json(exchanges, index),
        "error": exchange.error,
        **_compared_json(exchanges, index),
    }


def _settings_json(exchange: Exchange) -> dict[str, Any]:
    return {one.name: getattr(exchange.sampling, one.name) for one in settings_of(exchange.sampling)}


def _compared_json(exchanges: Sequence[Exchange], index: int) -> dict[str, Any]:
    """The other answer to the same question, where there are two."""
    pair = exchanges[index].pair
    if pair is None:
        return {}
    other = next(one for one in exchanges[index].answers if one is not exchanges[index])
    compared = {
        "side": other.side,
        "vote": pair.vote,
        "model": other.model,
        "settings": _settings_json(other),
        "answer": _answer_json([*exchanges[:index], other], index),
        "error": other.error,
    }
    return {"compared": compared}


def _answer_json(exchanges: Sequence[Exchange], index: int) -> dict[str, Any] | None:
    """The answer with its regions, which are for readers of the file: they follow from the text."""
    exchange = exchanges[index]
    answer = exchange.answer
    if answer is None:
        return None
    entities = entities_of(parse_answer(answer.text, exchange.phrase, answer.spans))
    picture = next((one.pictures[-1] for one in reversed(exchanges[: index + 1]) if one.pictures), None)
    regions = regions_data(entities, size=picture.size)["regions"] if picture else []
    drawn = _drawn(exchange)
    return {
        "text": answer.text,
        "finish": answer.finish_reason or "cancelled",
        "notices": list(answer.notices),
        "tokens": answer.num_new_tokens,
        "seconds": round(answer.seconds, 3),
        "drawn_picture": drawn.key if drawn else None,
        "regions": regions,
        **_spans_json(answer),
    }


def _spans_json(answer: Answer) -> dict[str, Any]:
    """The boxes of an answer that another model wrote in its own form; empty where the text has our markup."""
    if answer.spans is None:
        return {}
    spans = [
        {
            "span": [span.begin, span.end],
            "label": span.label,
            "boxes": [[box.x0, box.y0, box.x1, box.y1] for box in span.boxes],
        }
        for span in answer.spans
    ]
    return {"spans": spans}


def read_chat(data: bytes, model: ChatModel, *, name: str = "The file") -> list[Exchange]:
    """The conversation of a file, ready to be continued with `model`.

    Raises RequestError, one line with the file's name and the field, for whatever is not as it should be, and
    ImageError for a picture that is none.
    """
    if len(data) > MAX_BYTES:
        raise RequestError(f"{name} is larger than {MAX_BYTES >> 20} MiB, which is the limit of a saved chat.")
    root = read_json(data, name)
    chat = root.object("format", "version", "saved", "pictures", "exchanges")
    if chat["format"].content != FORMAT:
        raise RequestError(f'{name} is no saved chat: its format is not "{FORMAT}".')
    if chat["version"].content != VERSION:
        raise RequestError(f"{name} has another version than {VERSION}; this program reads only that.")
    chat["saved"].text(100)
    if len(data) - picture_bytes(chat["pictures"]) > MAX_TEXT_BYTES:
        raise RequestError(
            f"{name} has more than {MAX_TEXT_BYTES >> 20} MiB of text, which is the limit of a saved chat."
        )
    pictures = read_pictures(chat["pictures"])
    exchanges: list[Exchange] = []
    for value in chat["exchanges"].items(MAX_EXCHANGES):
        exchange = _read_exchange(value, pictures, model)
        is_other = bool(exchange.pictures) and bool(exchanges)
        exchange.begins_anew = is_other and model.info.one_image_per_chat
        exchanges.append(exchange)
    if not exchanges:
        raise RequestError(f"{name} holds no question.")
    return exchanges


def _read_exchange(value: Value, pictures: dict[str, Picture], model: ChatModel) -> Exchange:
    one = value.object(
        *("question", "pictures", "phrase", "model", "asked", "settings", "reads_text", "wants_picture", "answer"),
        "error",
        optional=["compared"],
    )
    shown = [_picture(key, pictures) for key in one["pictures"].items(MAX_PICTURES)]
    if len(shown) > model.info.max_images_per_turn:
        raise one["pictures"].wrong(f"are {len(shown)}, and this model takes {model.info.max_images_per_turn} at once")
    exchange = Exchange(
        model.neutralise(one["question"].text(MAX_QUESTION_CHARACTERS)), tuple(shown), _read_settings(one["settings"])
    )
    exchange.phrase = one["phrase"].text(MAX_PHRASE_CHARACTERS)
    exchange.asked = one["asked"].text(100)
    exchange.extras = WantedExtras(reads_text=one["reads_text"].flag(), wants_picture=one["wants_picture"].flag())
    _read_answered(one, exchange, pictures, model)
    if "compared" in one:
        _read_compared(one["compared"], exchange, pictures, model)
    return exchange


def _read_answered(one: dict[str, Value], exchange: Exchange, pictures: dict[str, Picture], model: ChatModel) -> None:
    """Who answered, and what."""
    exchange.model = one["model"].text(MAX_LINE_CHARACTERS)
    exchange.answer = _read_answer(one["answer"], pictures, model)
    exchange.error = one["error"].text(MAX_LINE_CHARACTERS)
    if exchange.answer is None and not exchange.error:
        raise one["answer"].wrong("must be there, unless `error` says why there is none")


def _read_compared(value: Value, exchange: Exchange, pictures: dict[str, Picture], model: ChatModel) -> None:
    """The other answer to the question of `exchange`."""
    one = value.object("side", "vote", "model", "settings", "answer", "error")
    if one["side"].content not in ("left", "right"):
        raise one["side"].wrong('must be "left" or "right"')
    if one["vote"].content not in ("", "left", "right", "tie", "both bad"):
        raise one["vote"].wrong('must be "left", "right", "tie", "both bad" or empty')
    other = Exchange(exchange.question, exchange.pictures, _read_settings(one["settings"]), extras=exchange.extras)
    other.phrase, other.asked = exchange.phrase, exchange.asked
    _read_answered(one, other, pictures, model)
    left, right = (other, exchange) if one["side"].content == "left" else (exchange, other)
    exchange.pair = other.pair = Pair(left, right, str(one["vote"].content))


def _picture(key: Value, pictures: dict[str, Picture]) -> Picture:
    name = key.text(MAX_LINE_CHARACTERS)
    if name not in pictures:
        raise key.wrong("names a picture that the file does not hold")
    return pictures[name]


def _read_settings(value: Value) -> Sampling:
    values = value.object(*(one.name for one in fields(Sampling)))
    try:
        return check(Sampling(**{name: one.content for name, one in values.items()}))
    except RequestError as error:
        raise RequestError(f"{value.place}: {error}") from None


def _read_answer(value: Value, pictures: dict[str, Picture], model: ChatModel) -> Answer | None:
    if value.content is None:
        return None
    names = ("text", "finish", "notices", "tokens", "seconds", "drawn_picture", "regions")
    one = value.object(*names, optional=["spans"])
    finish = one["finish"].content
    if finish not in ("stop", "length", "cancelled"):
        raise one["finish"].wrong('must be "stop", "length" or "cancelled"')
    facts: dict[str, Any] = {
        "text": model.neutralise(one["text"].text(MAX_ANSWER_CHARACTERS)),
        "finish_reason": finish,
        "notices": tuple(line.text(MAX_LINE_CHARACTERS) for line in one["notices"].items(100)),
        "num_new_tokens": int(one["tokens"].number(1e9)),
        "seconds": one["seconds"].number(1e9),
    }
    one["regions"].items(MAX_ANSWER_CHARACTERS)  # for readers of the file; they follow from the text
    spans = _read_spans(one["spans"]) if "spans" in one else None
    if facts["text"] == one["text"].content:  # else they would no longer be where they say
        facts["spans"] = spans
    if one["drawn_picture"].content is None:
        return Answer(**facts)
    return IllustratedAnswer(**facts, picture=_picture(one["drawn_picture"], pictures).image, has_picture=True)


def _read_spans(value: Value) -> tuple[BoxSpan, ...]:
    spans = []
    for item in value.items(MAX_SPANS):
        one = item.object("span", "label", "boxes")
        ends = [int(end.number(MAX_ANSWER_CHARACTERS)) for end in one["span"].items(2)]
        boxes = [[corner.number(1) for corner in box.items(4)] for box in one["boxes"].items(MAX_SPANS)]
        if len(ends) != 2 or any(len(box) != 4 for box in boxes):
            raise item.wrong("must have two ends, and four numbers for each box")
        found = tuple(Box.from_corners(*box) for box in boxes)
        spans.append(BoxSpan(ends[0], ends[1], one["label"].text(MAX_LINE_CHARACTERS), found))
    return tuple(spans)
