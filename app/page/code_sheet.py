"""An answer as code: the button under it asks for it here, and code.js shows it in a sheet.

The browser says at which address it has the page, and what `/v1/models` there told it; so the code names the server as
this visitor reaches it, and leaves out `/v1` where there is none.
"""

from __future__ import annotations

import json
import re
from typing import Any

import gradio as gr

from app.api.as_code import Server, as_code
from app.chat.exchange import WantedExtras
from app.page.bubble_parts import shown_model
from app.page.choosing.page_models import PageModels
from app.page.long_work import LONG_WORK
from app.page.notices import notice_of
from app.page.page_state import PageState
from models.errors import MiniVLMError, RequestError

TITLES = {"curl": "curl", "openai": "Python, openai", "gradio_client": "Python, gradio_client"}
MAX_MODELS = 1000

_ADDRESS = re.compile(r"https?://[\w.:\[\]-]{1,300}(?:/[\w./~%-]{0,300})?")


def add_code_sheet(models: PageModels, bridge: gr.HTML, page: gr.State, quick: dict[str, Any], notice: gr.HTML) -> None:
    """The listener of the buttons. `quick`: how the page's short listeners are called."""
    value = gr.HTML("", html_template="", elem_id="mv-code-value", visible="hidden")

    def show(page: PageState, event: gr.EventData) -> tuple[Any, Any]:
        try:
            with LONG_WORK.turn():
                code = code_of(
                    page,
                    models,
                    index=int(event.index),
                    side=str(event.side),
                    url=event.url,
                    listed=event.models,
                    key=event.key,
                )
        except MiniVLMError as error:
            return "", notice_of(page, error)
        return json.dumps(code).replace("<", "\\u003c"), gr.skip()

    shown = bridge.code(show, [page], **{**quick, "outputs": [value, notice]})
    shown.then(None, [value], [value], js="(value) => window.minivlm.showCode(value)")


def code_of(
    page: PageState, models: PageModels, *, index: int, url: Any, listed: Any, key: Any, side: str = ""
) -> list[dict[str, str]]:
    """Title and text of each piece of code for answer `index`, of two the one on this `side`.

    `url` is the page's address, `listed` the entries of its `/v1/models`, `key` whether that asks for one, all as the
    browser says. Raises RequestError for an answer that is not there, or an address that is none.
    """
    chosen = page.session.exchange(index)
    exchange = next((one for one in chosen.answers if one.side == side), chosen)
    if not isinstance(url, str) or not _ADDRESS.fullmatch(url):
        raise RequestError("The address of this page can't be written in code.")
    served = next((name for name, shown in _names(listed) if shown == exchange.model), "")
    known = (models.of(page), models.rival_of(page), models.default)
    here = next((one for one in known if one is not None and one.info.name == exchange.model), None)
    has_extras = exchange.extras != WantedExtras() or (here is not None and here.info.extras is not None)
    server = Server(url=url, model=served, needs_key=key is True, has_extras=has_extras)
    code = as_code([*page.session.exchanges[:index], exchange], index, server)
    if not served:
        code = {name: text for name, text in code.items() if name == "gradio_client"}
    if models.default.info.name != exchange.model:  # `/chat` asks no other model
        code.pop("gradio_client", None)
    if not code:
        model = shown_model(exchange.model)
        raise RequestError(f"No program can ask {model} this here: no /v1 has it, and /chat can't say it.")
    return [{"title": TITLES[name], "text": text} for name, text in code.items()]


def _names(listed: Any) -> list[tuple[str, str]]:
    """Name in requests and name on the page of each model."""
    entries = listed[:MAX_MODELS] if isinstance(listed, list) else []
    return [
        (one["id"], str(one.get("name"))) for one in entries if isinstance(one, dict) and isinstance(one.get("id"), str)
    ]
