"""Attacks that make the server decode."""

from __future__ import annotations

import base64
import json
import secrets
from collections import Counter
from typing import Any

from benchmarks.attacks.hostile_pictures import LARGE, distinct_copies, jpeg_with_scans, large_png, odd_pictures
from benchmarks.attacks.target import Browser, Target, at_once


def many_large_in_one_question(target: Target) -> object:
    """12 PNGs of 7000 x 7000 for one question, from two sessions, again and again"""
    browser, is_time = target.browser(), target.until_end()
    paths = browser.upload(*distinct_copies(large_png(), 12))
    target.begin()
    statuses: Counter[int] = Counter()
    while is_time():
        statuses[browser.attach(paths, secrets.token_hex(6))] += 1
    return statuses


def large_pngs(target: Target) -> object:
    """40 PNGs of 7000 x 7000, each a question of its own, at once"""
    return _asked(target, list(distinct_copies(large_png(), 40)), browsers=10)


def large_pngs_attached(target: Target) -> object:
    """100 PNGs of 7000 x 7000 attached from 25 browsers at once"""
    return _attached(target, list(distinct_copies(large_png(), 100)), browsers=25)


def many_scans(target: Target) -> object:
    """100 progressive JPEGs of 25,000 scans at once"""
    return _asked(target, list(distinct_copies(jpeg_with_scans(25_000), 100)), browsers=20)


def allowed_scans(target: Target) -> object:
    """40 progressive JPEGs of 10,000 x 10,000 with as many scans as are let through"""
    return _asked(target, list(distinct_copies(jpeg_with_scans(85, 10_000), 40)), browsers=10)


def odd_kinds(target: Target) -> object:
    """TIFF, GIF, WebP, AVIF and PNG with much in them, twice each"""
    kinds = odd_pictures()
    return _asked(target, [file + b"%d" % number for file in kinds.values() for number in range(2)], browsers=6)


def pictures_to_api(target: Target) -> object:
    """/v1: 60 requests with a PNG of 7000 x 7000 each, and one with 1,000 pictures"""
    files = [base64.b64encode(file).decode() for file in distinct_copies(large_png(LARGE), 60)]
    client = target.client()
    target.begin()

    def ask(index: int) -> int:
        images = [files[index]] if index < 60 else files[:20] * 50
        content: list[Any] = [{"type": "text", "text": "[caption] describe this image"}]
        content += [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{one}"}} for one in images]
        body = {"model": "x", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
        return client.post("/v1/chat/completions", json={**body, "model": _model(target)}).status_code

    return at_once(61, ask)


def _model(target: Target) -> str:
    return str(target.client().get("/v1/models").json()["data"][0]["id"])


def _uploaded(target: Target, files: list[bytes], browsers: int) -> tuple[list[Browser], list[list[str]]]:
    """Upload the files by so many browsers in turn and begin the attack. Gives the browsers, and the paths of each."""
    crowd = [target.browser() for _ in range(browsers)]
    paths = [crowd[index % browsers].upload(file) for index, file in enumerate(files)]
    target.begin()
    return crowd, paths


def _asked(target: Target, files: list[bytes], *, browsers: int) -> object:
    """Every file is uploaded, and then asked about, all at once, each in a session of its own."""
    crowd, paths = _uploaded(target, files, browsers)

    def ask(index: int) -> str:
        browser, session = crowd[index % browsers], secrets.token_hex(6)
        status = browser.ask("[caption] describe this image", paths[index], session=session)
        if status != 200:
            return str(status)
        browser.wait(session)
        return "answered"

    return at_once(len(files), ask)


def _attached(target: Target, files: list[bytes], *, browsers: int) -> object:
    crowd, paths = _uploaded(target, files, browsers)
    return at_once(len(files), lambda index: crowd[index % browsers].attach(paths[index], session=secrets.token_hex(6)))


def wrong_base64(target: Target) -> object:
    """/v1: data URIs of 20 MB of spaces and escapes"""
    client, is_time = target.client(), target.until_end()
    target.begin()
    statuses: Counter[int] = Counter()
    model = _model(target)
    while is_time():
        for data in (" \n" * 10_000_000, "%20" * 6_000_000, "%" * 10_000_000):
            content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}]
            body = json.dumps({"model": model, "messages": [{"role": "user", "content": content}]})
            statuses[client.post("/v1/chat/completions", content=body).status_code] += 1
    return statuses


ATTACKS = (
    many_large_in_one_question,
    large_pngs,
    large_pngs_attached,
    many_scans,
    allowed_scans,
    odd_kinds,
    pictures_to_api,
    wrong_base64,
)
