"""Attacks with connections that are held, and bodies that come slowly or never end."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from benchmarks.attacks.target import Target, all_at_once, at_once

_FORM = "Content-Type: multipart/form-data; boundary=a"
_PART = b'--a\r\nContent-Disposition: form-data; name="files"; filename="p.png"\r\n\r\n'


def heartbeats(target: Target) -> object:
    """1,100 open pages"""
    return _held(target, 1100, lambda _: target.head(f"GET /gradio_api/heartbeat/{secrets.token_hex(6)}"))


def slow_headers(target: Target) -> object:
    """1,500 requests whose headers come a byte a second"""
    return _held(target, 1500, lambda _: target.head("GET /")[:-2], trickle=b"x")


def slow_bodies(target: Target) -> object:
    """1,500 uploads that come a byte a second"""
    head = target.head("POST /gradio_api/upload", _FORM, "Content-Length: 20000000") + _PART
    return _held(target, 1500, lambda _: head, trickle=b"x")


def tiny_chunks(target: Target) -> object:
    """200 bodies in chunks of one byte, as fast as they go"""
    head = target.head("POST /gradio_api/queue/join", "Transfer-Encoding: chunked")
    return _held(target, 200, lambda _: head, trickle=b"1\r\nx\r\n" * 2000, pause=0.0)


def unread_pages(target: Target) -> object:
    """500 connections that ask for the page again and again, and read nothing"""
    return _held(target, 500, lambda _: target.head("GET /config") * 40)


def unread_by_many(target: Target) -> object:
    """2,400 connections of 8 addresses that ask for the page again and again, and read nothing"""
    return _held(target, 2400, lambda _: target.head("GET /config") * 40, trickle=b"\r\n", addresses=8)


def cut_off_uploads(target: Target) -> object:
    """Uploads of 5 MB that are cut off in the middle"""
    is_time = target.until_end()
    head = target.head("POST /gradio_api/upload", _FORM, "Content-Length: 20000000") + _PART
    target.begin()

    def cut(_: int) -> int:
        count = 0
        while is_time():
            with target.connect() as connection:
                connection.sendall(head + b"x" * (5 << 20))
                time.sleep(0.1)
                count += 1
        return count

    return at_once(4, cut)


def many_files(target: Target) -> object:
    """1,000 files in one upload, files of 26 MB, and questions about all of them"""
    browser, is_time = target.browser(), target.until_end()
    target.begin()
    outcomes: Counter[str] = Counter()
    while is_time():
        paths = browser.upload(*(b"%d" % number for number in range(1000)))
        outcomes[f"{len(paths)} files, attached: {browser.attach(paths)}"] += 1
        outcomes[f"{len(browser.upload(bytes(26 << 20)))} of 26 MB"] += 1
    return outcomes


def _held(
    target: Target,
    number: int,
    first: Callable[[int], bytes],
    *,
    trickle: bytes = b"",
    pause: float = 1.0,
    addresses: int = 1,
) -> object:
    """Connections that send the first bytes, then more every `pause` seconds; one that is closed comes again.

    They come from so many addresses: the target's own and those after it.
    """
    is_time = target.until_end()
    start, _, last = target.address.rpartition(".")
    sources = [replace(target, address=f"{start}.{int(last) + more}") for more in range(addresses)]
    target.begin()

    async def hold(index: int) -> str:
        lasted, opened = 0.0, 0
        while is_time():
            begun = time.monotonic()
            try:
                reader, writer = await sources[index % addresses].opened()
                opened += 1
                writer.write(first(index))
                while is_time():
                    await writer.drain()
                    await asyncio.sleep(pause)
                    writer.write(trickle)
                    if reader.at_eof() or writer.transport.is_closing():
                        break
            except OSError:
                await asyncio.sleep(0.1)
            lasted = max(lasted, time.monotonic() - begun)
        return f"held {lasted // 5 * 5:.0f} s and more"

    return all_at_once(number, hold)


ATTACKS = (
    heartbeats,
    slow_headers,
    slow_bodies,
    tiny_chunks,
    unread_pages,
    unread_by_many,
    cut_off_uploads,
    many_files,
)
