"""Attacks with what the page offers: saved chats, parts of pictures, watching, comparing."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.attacks.hostile_pictures import encoded
from benchmarks.attacks.target import FILE, Browser, Target, at_once, message
from benchmarks.attacks.with_sessions import TELL
from models.conversation import Sampling


def data_uri(image: Image.Image, kind: str, **settings: object) -> str:
    """An image as the files of saved chats have it: `kind` is png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(encoded(image, kind.upper(), **settings)).decode()}"


def noise(side: int) -> Image.Image:
    """A picture that no format makes small."""
    return Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8))


def saved_chat(uris: dict[str, str], number: int, *, text: str = "x", **more: Any) -> bytes:
    """A file of so many equal questions; `uris` are its pictures, by their keys. `more`: fields of each question."""
    answer = {"text": text, "finish": "stop", "notices": [], "tokens": 1, "seconds": 1, "regions": []}
    question: dict[str, Any] = {
        "question": "what?",
        "pictures": [],
        "phrase": "",
        "model": "m",
        "asked": "",
        "settings": {**asdict(Sampling()), "seed": 0},
        "reads_text": False,
        "wants_picture": False,
        "answer": {**answer, "drawn_picture": more.pop("drawn", None)},
        "error": "",
        **more,
    }
    files = {key: {"name": "a", "data": uri} for key, uri in uris.items()}
    head = {"format": "minivlm-chat", "version": 1, "saved": ""}
    return json.dumps({**head, "pictures": files, "exchanges": [question] * number}).encode()


def _opened(browser: Browser, chat: bytes, session: str | None = None) -> int:
    """Open a saved chat in a session; the HTTP status."""
    path = browser.upload(chat, ending="json")[0]
    return browser.press("open", [None, {"path": path, "meta": FILE}], session)


def _pressed(
    target: Target, chat: bytes, listener: str, data: Sequence[Any] = (None,), browsers: int = 6, **more: Any
) -> object:
    """Each of some browsers opens a chat in four sessions, and then presses something in each all the time."""
    crowd, is_time = [target.browser() for _ in range(browsers)], None
    sessions = [secrets.token_hex(6) for _ in range(4 * browsers)]
    opened = Counter(_opened(crowd[index % browsers], chat, session) for index, session in enumerate(sessions))
    target.begin()
    is_time = target.until_end()

    def press(index: int) -> dict[int, int]:
        statuses: Counter[int] = Counter()
        while is_time():
            browser = crowd[index % browsers]
            statuses[browser.press(listener, list(data), sessions[index], **more)] += 1
        return dict(statuses)

    return opened, at_once(len(sessions), press)


def drawn_pictures_wanted(target: Target) -> object:
    """Chats of 1,000 answers with the same large drawn picture; pictures that it does not have are wanted"""
    uri = data_uri(Image.new("RGB", (5000, 5000), "red"), "png")
    event = {"wanted": [f"{number}" for number in range(200)]}
    return _pressed(target, saved_chat({"a": uri}, 1000, drawn="a"), "wanted_pixels", event_data=event)


def pages_saved(target: Target) -> object:
    """Chats of 1,000 questions about the same picture, saved as pages all the time"""
    uri = data_uri(noise(1024), "jpeg", quality=80)
    return _pressed(target, saved_chat({"a": uri}, 1000, pictures=["a"]), "save_html")


def large_questions_edited(target: Target) -> object:
    """Questions about a picture of 9 megapixels of noise, which comes from a chat, are edited all the time"""
    uri = data_uri(noise(3000), "jpeg", quality=40)
    box: list[Any] = [None, message("", [])]
    return _pressed(target, saved_chat({"a": uri}, 1, pictures=["a"]), "edit", box, event_data={"index": 0})


def long_chats_asked(target: Target) -> object:
    """Questions in chats of 4 MiB of text, again and again"""
    chat, browsers = saved_chat({}, 1000, text="hello world " * 300), 6
    crowd, sessions = [target.browser() for _ in range(browsers)], [secrets.token_hex(6) for _ in range(24)]
    opened = Counter(_opened(crowd[index % browsers], chat, session) for index, session in enumerate(sessions))
    is_time = target.until_end()
    target.begin()

    def ask(index: int) -> dict[int, int]:
        statuses: Counter[int] = Counter()
        while is_time():
            browser, session = crowd[index % browsers], sessions[index]
            statuses[status := browser.ask("hi", [], session=session)] += 1
            if status == 200:
                browser.wait(session)
        return dict(statuses)

    return opened, at_once(24, ask)


def watched_by_many(target: Target) -> object:
    """Long answers in long chats, each looked at all the time from the same page"""
    crowd, is_time = [target.browser() for _ in range(6)], target.until_end()
    for browser in crowd:
        _opened(browser, saved_chat({}, 100, text="**a** " * 500))
    target.begin()

    def look(index: int) -> dict[str, int]:
        statuses: Counter[str] = Counter()
        browser = crowd[index % 6]
        while is_time():
            if index < 6:
                statuses[f"asked {browser.ask(TELL, [], length=900)}"] += 1
                browser.wait(browser.session)
            else:
                whole = {"whole": bool(index % 2)}
                statuses[str(browser.join("look", [None], event_data=whole))] += 1
                time.sleep(0.2)
        return dict(statuses)

    return at_once(60, look)


def made_up_files(target: Target) -> object:
    """Files that were never uploaded, thousands in a call, each with a long name of its own"""
    browser, is_time = target.browser(), target.until_end()
    folder = browser.upload(b"x")[0].rpartition("/")[0]
    target.begin()
    statuses: Counter[int] = Counter()
    while is_time():
        paths = [f"{folder}/{secrets.token_hex(100)}" for _ in range(2500)]
        statuses[browser.attach(paths)] += 1
    return statuses


def settings_that_are_none(target: Target) -> object:
    """Of two answers that are compared, settings of 3 MiB that no model has, in as many sessions as may be"""
    crowd, is_time = [target.browser() for _ in range(6)], target.until_end()
    target.begin()
    values: dict[str, Any] = {f"{number}": [[]] * 9 for number in range(500)} | {"x": "x" * 3_000_000}
    statuses: Counter[int] = Counter()
    number = 0
    while is_time():
        browser, session = crowd[number % 6], secrets.token_hex(6)
        number += 1
        for event in ({"on": True}, {"on": True, "values": values}):
            statuses[browser.join("change", [None, ""], session, event_data=event)] += 1
        browser.wait(session)
    return statuses


ATTACKS = (
    drawn_pictures_wanted,
    pages_saved,
    large_questions_edited,
    long_chats_asked,
    watched_by_many,
    made_up_files,
    settings_that_are_none,
)
