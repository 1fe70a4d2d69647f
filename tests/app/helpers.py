"""Small things that the tests of the app share."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from app.chat.conversation_store import ConversationStore
from app.chat.pictures import Picture
from app.page.page_state import PageState
from engine.chat_model import ChatModel
from tests.fakes import ScriptedModel

Serve = Callable[[ChatModel], str]  # puts a model on a page of its own and gives its address


@dataclass
class Server:
    """The running page and the model behind it."""

    url: str
    model: ScriptedModel
    store: ConversationStore[PageState]
    forget: Callable[[], None]  # every conversation, as a restart does


def scene() -> Image.Image:
    """A red disc at 10..45 by 20..60 percent and a blue square, on grey."""
    image = Image.new("RGB", (200, 100), (225, 222, 214))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 90, 60), fill=(200, 40, 40))
    draw.rectangle((120, 30, 180, 90), fill=(40, 60, 200))
    return image


def picture(colour: str = "red") -> Picture:
    return Picture(Image.new("RGB", (8, 8), colour), f"{colour}.png")


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The picture as a file of this kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
