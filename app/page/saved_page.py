"""A chat as one HTML file that looks like the page and needs nothing else: no server, no other host.

The bubbles are the page's own. Its policy allows one script, by its hash, its styles, and the pictures in it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

from app.chat.encoding import well_formed
from app.chat.exchange import Exchange
from app.chat.session import ChatSession
from app.page.bubble_parts import plain_name
from app.page.comparing.bubbles import side_of, verdict_bubble
from app.page.fixed_texts import TITLE
from app.page.messages import answer_bubble, question_bubble
from models.errors import RequestError

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("phrases.js", "saved.js")
MOST_CHARACTERS = 16 * 2**20  # of all bubbles: each question brings its pictures along
STYLES = ("theme.css", "messages.css", "text.css", "compare.css", "saved.css")


def chat_html(exchanges: Sequence[Exchange], *, saved: str) -> str:
    """The file's text; `saved` is the moment in ISO 8601. Raises RequestError for a chat that makes too much of it."""
    session = ChatSession()
    session.exchanges = list(exchanges)
    bubbles: list[str] = []
    left = MOST_CHARACTERS
    for index, exchange in enumerate(exchanges):
        picture, first = session.picture_of(index), len(bubbles)
        bubbles.append(question_bubble(exchange, index, picture, is_saved=True))
        for one in exchange.answers:
            side = side_of(one, exchange, is_last=False, is_saved=True)
            bubbles.append(answer_bubble(one, index, picture, is_last=False, is_saved=True, side=side))
        if exchange.pair is not None:
            bubbles.append(verdict_bubble(exchange, index, is_last=False, is_saved=True))
        left -= sum(map(len, bubbles[first:]))
        if left < 0:
            raise RequestError("This chat is too large for a page. Save it to open again (JSON).")
    models = ", ".join(dict.fromkeys(one.model for exchange in exchanges for one in exchange.answers if one.model))
    style = "".join((ASSETS / "styles" / name).read_text(encoding="utf-8") for name in STYLES)
    script = "".join((ASSETS / "scripts" / name).read_text(encoding="utf-8") for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    title = escape(f"{_heading(exchanges)} · {TITLE}")
    return well_formed(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title><style>{style}</style></head>'
        f'<body><main><header class="mv-header"><h1>{TITLE}</h1><span class="mv-model">{escape(models)}</span>'
        f'<time datetime="{escape(saved)}">{escape(saved[:16].replace("T", " "))}</time></header>'
        f'<div id="mv-chat">{"".join(bubbles)}</div></main><script>{script}</script></body></html>\n'
    )


def chat_file_name(exchanges: Sequence[Exchange], ending: str) -> str:
    """What a saved chat is called: its model and its first question."""
    first = exchanges[0]
    return "_".join(filter(None, ["chat", plain_name(first.model), plain_name(first.question)])) + f".{ending}"


def _heading(exchanges: Sequence[Exchange]) -> str:
    return " ".join(exchanges[0].question.split())[:80] if exchanges else "Chat"
