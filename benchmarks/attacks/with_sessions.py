"""Attacks that make the server keep things, or answer for long."""

from __future__ import annotations

import secrets
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from benchmarks.attacks.target import Browser, Target, at_once

TELL = "[vqa] tell me everything about everything"


def made_up_sessions(target: Target) -> object:
    """10,005 made-up sessions"""
    browser = target.browser()
    target.begin()
    return at_once(10_005, lambda _: browser.press("reset", [None], secrets.token_hex(6)))


def unread_questions(target: Target) -> object:
    """2,060 questions whose answers nobody reads"""
    crowd = [target.browser() for _ in range(20)]
    target.begin()
    return at_once(2060, lambda index: crowd[index % 20].ask("hello", [], session=secrets.token_hex(6)))


def long_questions(target: Target) -> object:
    """As many questions with long answers as one address may ask"""
    crowd, is_time = [target.browser() for _ in range(12)], target.until_end()
    target.begin()

    def ask(index: int) -> str:
        result = ""
        while is_time():
            browser, session = crowd[index % 12], secrets.token_hex(6)
            status = browser.ask(f"{TELL} {index}", [], session=session, length=900)
            result = str(status)
            if status == 200:
                browser.wait(session)
        return result

    return at_once(120, ask)


def long_prompts(target: Target) -> object:
    """/v1: 64 conversations of many thousand words at once, again and again"""
    client, is_time = target.client(), target.until_end()
    name = client.get("/v1/models").json()["data"][0]["id"]
    target.begin()

    def ask(index: int) -> int:
        status = 0
        while is_time():
            text = f"[vqa] {index} " + "what is the colour of it " * 700
            body = {"model": name, "max_tokens": 500, "messages": [{"role": "user", "content": text}]}
            status = client.post("/v1/chat/completions", json=body).status_code
        return status

    return at_once(64, ask)


def unread_streams(target: Target) -> object:
    """Questions with long answers in one session, whose page is open and whose stream nobody reads"""
    browser, is_time = target.browser(), target.until_end()
    statuses: Counter[int] = Counter()
    with browser.client.stream("GET", f"/gradio_api/heartbeat/{browser.session}"):
        target.begin()
        while is_time():
            statuses[browser.ask(TELL, [], length=900)] += 1
            browser.press("reset", [None])
    return statuses


def boxes(target: Target) -> object:
    """Four visitors who draw 1,400 boxes in each question"""
    crowd, is_time = [target.browser() for _ in range(4)], target.until_end()
    target.begin()

    def draw(browser: Browser) -> int:
        count = 0
        while is_time():
            if browser.ask("{<1><1><2><2>}" * 1400, []) == 200:
                browser.wait(browser.session)
            count += 1
        return count

    with ThreadPoolExecutor(4) as threads:
        return sum(threads.map(draw, crowd))


def guessed_sessions(target: Target) -> object:
    """Other visitors' sessions, conversations and events are guessed"""
    browser, is_time = target.browser(), target.until_end()
    target.begin()
    statuses: Counter[str] = Counter()
    while is_time():
        name = secrets.token_hex(6)
        for path in (f"queue/data?session_hash={name}", f"call/chat/{secrets.token_hex(16)}"):
            statuses[f"{path[:5]} {browser.client.get(f'/gradio_api/{path}').status_code}"] += 1
        body = {"session_hash": name, "fn_index": 0, "event_id": "x"}
        statuses[f"cancel {browser.client.post('/gradio_api/cancel', json=body).status_code}"] += 1
        data = [None, secrets.token_urlsafe(24), {"text": "hello", "files": []}, None, *target.page.settings_for(5)]
        asked = {"data": data, "session_hash": browser.session, "fn_index": target.page.listeners["ask"]}
        statuses[f"key {browser.client.post('/gradio_api/queue/join', json=asked).status_code}"] += 1
    return statuses


ATTACKS = (
    made_up_sessions,
    unread_questions,
    long_questions,
    long_prompts,
    unread_streams,
    boxes,
    guessed_sessions,
)
