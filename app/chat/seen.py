"""What a model sees of a conversation when it answers a question of it."""

from __future__ import annotations

from collections.abc import Sequence

from app.chat.exchange import Exchange, Question
from app.chat.pictures import Picture
from engine.chat_model import ChatModel
from models.conversation import Turn


def turns_of(exchanges: Sequence[Exchange], model: ChatModel | None = None) -> list[Turn]:
    """The conversation as the model sees it when it answers the last of these exchanges.

    Questions that got no answer are left out; their images go to the next question, as nothing else shows them.
    Nothing before `first_seen` is there; what other models said is made harmless for this one.
    """
    first, last = first_seen(exchanges, model), len(exchanges) - 1
    turns: list[Turn] = []
    waiting: tuple[Picture, ...] = ()
    for index, exchange in enumerate(exchanges[first:], start=first):
        if index < last and not exchange.text:
            waiting = exchange.pictures or waiting
            continue
        pictures, waiting = exchange.pictures or waiting, ()
        texts = [exchange.question, exchange.text]
        if model is not None and exchange.model != model.info.name:
            texts = [model.neutralise(text) for text in texts]
        turns.append(Question("user", texts[0], tuple(picture.image for picture in pictures), exchange.extras))
        if index < last:
            turns.append(Turn("assistant", texts[1]))
    return turns


def first_seen(exchanges: Sequence[Exchange], model: ChatModel | None = None) -> int:
    """The index of the first exchange that the model gets to see.

    That is the last one that `begins_anew`; for a model of one image per chat also the last one with a picture.
    """
    one_image = model is not None and model.info.one_image_per_chat
    seen = enumerate(exchanges)
    return max((index for index, one in seen if one.begins_anew or (one_image and one.pictures)), default=0)
