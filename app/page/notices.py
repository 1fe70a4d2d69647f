"""What the page says above the text box: what could not be done, and the edit that has begun."""

from __future__ import annotations

import itertools
from html import escape

from app.chat.questions import NeedsImage
from app.chat.session import StillAnswering
from app.page.page_state import PageState
from models.errors import MiniVLMError, RequestError

NO_LONGER_KEPT = "This conversation is no longer kept by the server: it was restarted, or the page was away for long."
LOST = f"{NO_LONGER_KEPT} Press New chat, and attach the image again."
LOST_AT_START = f"{NO_LONGER_KEPT} What you were typing is still there; attach the image again if there was one."

_numbers = itertools.count()


def error_line(text: str, *, about: str = "", offers_image: bool = False) -> str:
    """What could not be done. No two are the same to gradio, which would not show one again that the script had hidden.

    `about`: "question" for what another question makes outdated. `offers_image`: there is a button that adds one.
    """
    button = ' <button type="button" class="mv-action" data-action="add_image">Add an image</button>' * offers_image
    return (
        f'<p class="mv-error" role="alert" data-about="{about}" data-number="{next(_numbers)}">'
        f"{escape(text)}{button}</p>"
    )


def notice_of(page: PageState, error: MiniVLMError | None = None) -> str:
    """The lines above the text box: what could not be done, and the edit that has begun."""
    lines = ""
    if error is not None:
        page.refused_meanwhile = isinstance(error, StillAnswering)
        about = "question" if isinstance(error, RequestError) and not page.refused_meanwhile else ""
        lines += error_line(str(error), about=about, offers_image=isinstance(error, NeedsImage))
    if page.editing is not None:
        lines += (
            f'<p class="mv-info" role="status">Editing question {page.editing + 1}. '
            '<button type="button" class="mv-action" data-action="cancel_edit">Cancel</button></p>'
        )
    return lines
