"""The chat as a page of its own: what is in it, and what it may do."""

from __future__ import annotations

import base64
import hashlib
import re

from app.chat.exchange import Exchange
from app.chat.pictures import Picture
from app.page.saved_page import chat_file_name, chat_html
from models.conversation import Answer, Sampling
from tests.app.helpers import scene

NOW = "2026-11-29T12:00:00+00:00"
HOSTILE = (
    "<script>alert(1)</script> </style> <img src=https://example.org/x onerror=alert(1)> ![x](https://example.org)"
)


def page(question: str = "what is it?", text: str = "<p>dog</p> {<1><2><30><40>}") -> str:
    answer = Answer(text=text, finish_reason="stop", num_new_tokens=7, seconds=0.5)
    first = Exchange(question, (Picture(scene(), "scene.png"),), Sampling(seed=5), answer, model="Tiny model")
    second = Exchange("and now?", (), Sampling(seed=6), answer, model="Tiny model")
    return chat_html([first, second], saved=NOW)


def test_it_needs_no_server() -> None:
    html = page()
    assert "data-action" not in html
    assert "data-save" not in html
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", html)
    assert "url(" not in html
    assert "@import" not in html
    assert html.count('href="data:image/') == 1  # the picture is there once
    assert html.count('class="mv-overlay"') == 3
    assert "Tiny model" in html
    assert "seed 5" in html


def test_its_policy_allows_its_script_and_no_other() -> None:
    html = page(HOSTILE, HOSTILE)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = html.partition('content="default-src')[2].partition('"')[0]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "'none'" in policy
    assert html.index("Content-Security-Policy") < html.index("<title>")
    assert "<img" not in html


def test_half_a_character_does_not_spoil_it() -> None:
    page("a\ud800", "b\udfff").encode()


def test_its_name_says_model_and_question() -> None:
    one = Exchange("[refer] Where's the «Ключ»/../x?", (), Sampling(), model="Tiny MiniGPT-v2")
    assert chat_file_name([one], "html") == "chat_tiny-minigpt-v2_refer-where-s-the-ключ-x.html"
    assert chat_file_name([Exchange("…", (), Sampling())], "json") == "chat.json"
