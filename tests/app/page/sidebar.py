"""What the page sends with a question: what was typed, and the settings of its sidebar in their order."""

from __future__ import annotations

from typing import Any

from models.conversation import Sampling
from models.sampling_settings import settings_of


def typed(text: str, *files: str) -> dict[str, Any]:
    """The text box."""
    return {"text": text, "files": list(files)}


def page_values(**given: Any) -> tuple[Any, ...]:
    """The values of the sidebar: those that are given by a setting's name, and the usual ones of the others."""
    usual = Sampling()
    values = {one.name: "" if one.slider is None else getattr(usual, one.name) for one in settings_of(usual)}
    return tuple((values | given).values())


SETTINGS = page_values(temperature=0.6, top_p=0.9, max_new_tokens=200)
