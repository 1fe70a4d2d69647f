"""The conversation as a component: a gr.HTML of our own, filled by assets/scripts/conversation.js.

gradio's Chatbot draws every message anew with each update, and each update carries all of them. Here a value names all
bubbles by what they hold, and brings along only those that the page has not been sent yet:
`{"ids": [one for each bubble], "new": [[place, bubble], ...]}`; a bubble is as in messages.py. A page that misses one,
because gradio skips values that come too fast, or because another tab got it, asks for all of them (`look`).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import gradio as gr

from app.page.messages import Bubble, html_of
from app.page.page_state import PageState

MOST_PIXELS = 200  # pictures that are asked for at once
MOST_BYTES = 4 * 2**20  # of those that are given at once; the others are asked for again

_CONNECT = "window.minivlm.conversation.connect(element, props, watch);"
_CONNECT_PIXELS = 'watch("value", () => window.minivlm.pictures.put(props.value));'


class QuickBlocks(gr.Blocks):
    """gr.Blocks that leaves alone what a listener skips.

    gradio itself makes each skipped component anew, with every update of an answer: half of what an update costs it.
    And it sends to the browser what differs from the update before, which is changed in place there: where two come at
    once, a value that has not been drawn yet would turn into the "skipped" of the next update.
    """

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """As gr.Blocks.postprocess_data."""
        outputs = block_fn.outputs
        if not isinstance(predictions, tuple | list) or len(outputs) < 2 or len(predictions) != len(outputs):
            return await super().postprocess_data(block_fn, predictions, state)
        given = [place for place, value in enumerate(predictions) if not _is_skipped(value)]
        values: list[Any] = [None if block.stateful else gr.skip() for block in outputs]
        if given:
            only = copy(block_fn)
            only.outputs = [outputs[place] for place in given]
            wanted = [predictions[place] for place in given]
            made = await super().postprocess_data(only, wanted if len(given) > 1 else wanted[0], state)
            for place, value in zip(given, made, strict=True):
                values[place] = value
        return values

    def handle_streaming_diffs(
        self,
        block_fn: Any,
        data: list[Any],
        session_hash: str | None,
        run: str | None,
        final: bool,
        simple_format: bool = False,
    ) -> list[Any]:
        """As gr.Blocks.handle_streaming_diffs."""
        runs = self.pending_diff_streams.get(session_hash, {})  # of a session that is not there yet, none is made
        before, given = list(runs.get(run, ())), list(data)
        told: list[Any] = super().handle_streaming_diffs(block_fn, data, session_hash, run, final, simple_format)
        if not final and not simple_format:
            for place, (old, new) in enumerate(zip(before, given, strict=False)):
                if (_is_update(old) or _is_update(new)) and old != new:
                    told[place] = [["replace", [], new]]
        return told


def _is_update(value: Any) -> bool:
    return isinstance(value, dict) and "__type__" in value


def _is_skipped(value: Any) -> bool:
    return isinstance(value, dict) and value == gr.skip()


def make_conversation(placeholder: str) -> gr.HTML:
    """The component; `placeholder` is the HTML that is shown while there is no message."""
    template = (
        f'<div class="mv-scroller"><div class="mv-placeholder" tabindex="0">{placeholder}</div>'
        '<div class="mv-log" role="log" aria-live="polite" aria-label="Conversation"></div>'
        # Part of what scrolls, so that a wheel or a finger on it moves the conversation.
        '<div class="mv-down"><button type="button" class="mv-to-end" hidden '
        'aria-label="To the end of the conversation"><span aria-hidden="true">↓</span></button></div></div>'
    ).replace("{", "&#123;")
    return gr.HTML(
        None,
        html_template=template.replace("$", "&#36;"),  # braces and dollars would be gradio's own templates
        js_on_load=_CONNECT,
        apply_default_css=False,
        elem_id="mv-chat",
    )


def make_pixels() -> gr.HTML:
    """What brings pictures to the browser: `{key: data URI}`. Each tab gets each picture once."""
    return gr.HTML(None, html_template="", js_on_load=_CONNECT_PIXELS, elem_id="mv-pixels", visible="hidden")


def conversation_value(
    page: PageState, bubbles: Sequence[Bubble], *, whole: bool = False, placeholder: str = ""
) -> dict[str, Any]:
    """What the component is told. `whole`: with every bubble, for a tab that may have none of them. `placeholder`: the
    HTML that is shown without any, if it is another from now on."""
    texts = list(map(html_of, bubbles))
    page.drawn = sum(map(len, texts))
    names = [f"{hash(text) & 0xFFFFFFFF:08x}" for text in texts]
    sent = set() if whole else page.sent
    # The last question with its answers always: an answer that grows fast replaces the value that brought its question.
    exchanges = page.session.exchanges
    num_last = 4 if exchanges and exchanges[-1].pair else 2
    new = [
        [place, bubble]
        for place, (name, bubble) in enumerate(zip(names, bubbles, strict=True))
        if name not in sent or place >= len(bubbles) - num_last
    ]
    page.sent = set(names)
    return {"ids": names, "new": new, **({"placeholder": placeholder} if placeholder else {})}


def wanted_pixels(page: PageState, event: gr.EventData) -> dict[str, str]:
    """The listener that gives a tab the pictures that it shows and has not got yet."""
    return pixels_of(page, event.wanted)


def pixels_of(page: PageState, keys: Any) -> dict[str, str]:
    """The pictures of this page that have these keys, as data URIs by key; of others there is nothing.

    At least one; those that are too many for once are empty.
    """
    if not isinstance(keys, list):
        return {}
    there, found, left = page.pictures(), {}, MOST_BYTES
    for key in dict.fromkeys(str(key) for key in keys[:MOST_PIXELS]):
        if key in there:
            found[key] = there[key].preview_uri if left > 0 else ""
            left -= len(found[key])
    return found
