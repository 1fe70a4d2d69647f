"""Attacks with files: very many, large ones that are fetched again and again, and such as lie elsewhere."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter

from benchmarks.attacks.target import FILE, Target, all_at_once, at_once


def small_files(target: Target) -> object:
    """Uploads of 100 files of 8 bytes, one after the other, from 6 connections"""
    client, is_time = target.client(), target.until_end()
    target.begin()

    def send(_: int) -> dict[int, int]:
        statuses: Counter[int] = Counter()
        while is_time():
            files = [("files", (f"{number}.png", secrets.token_bytes(8))) for number in range(100)]
            statuses[client.post("/gradio_api/upload", files=files).status_code] += 1
        return dict(statuses)

    return at_once(6, send)


def scripts(target: Target) -> object:
    """The largest script of the page, packed, from 40 connections without a pause"""
    client = target.client()
    names = set(re.findall(r"assets/[\w.@-]+\.js", client.get("/").text))
    largest = max(sorted(names), key=lambda name: len(client.get(f"/{name}").content))
    target.begin()
    return _fetched(target, target.head(f"GET /{largest}", "Accept-Encoding: br", "Connection: close"), 40)


def downloads(target: Target) -> object:
    """A file of 24 MB, from 60 connections without a pause"""
    path = target.browser().upload(secrets.token_bytes(24 << 20))[0]
    target.begin()
    return _fetched(target, target.head(f"GET /gradio_api/file={path}", "Connection: close"), 60)


def addresses(target: Target) -> object:
    """Addresses in the place of files, which the server is to fetch; none of them exists"""
    browser, is_time = target.browser(), target.until_end()
    target.begin()
    statuses: Counter[str] = Counter()
    while is_time():
        address = f"http://{secrets.token_hex(6)}.invalid/a.png"
        statuses[f"file {browser.client.get(f'/gradio_api/file={address}').status_code}"] += 1
        statuses[f"attached {browser.attach([address])}"] += 1
        answer = {"path": address, "meta": FILE}
        called = browser.client.post("/gradio_api/call/chat", json={"data": [answer, "hello"]})
        statuses[f"called {called.status_code}"] += 1
        if called.status_code == 200:
            browser.client.get(f"/gradio_api/call/chat/{called.json()['event_id']}")
    return statuses


def _fetched(target: Target, request: bytes, connections: int) -> object:
    is_time = target.until_end()

    async def fetch(_: int) -> str:
        size = 0
        while is_time():
            try:
                reader, writer = await target.opened()
                writer.write(request)
                while is_time() and (part := await asyncio.wait_for(reader.read(1 << 20), 5)):
                    size += len(part)
                writer.close()
            except (OSError, TimeoutError):
                await asyncio.sleep(0.01)
        return f"{size // 10_000_000}0 MB and more"

    return all_at_once(connections, fetch)


ATTACKS = (small_files, scripts, downloads, addresses)
