"""Who answers beside the page's model, and with which settings: from what the visitor chose and typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.chat.answering import Rival
from app.chat.exchange import WantedExtras
from app.page.choosing.page_models import PageModels
from app.page.page_state import PageState
from models.conversation import Sampling
from models.errors import RequestError
from models.model_info import ModelInfo
from models.sampling_settings import SamplingSetting, check, settings_of, with_values

MAX_TYPED = 40  # characters of a setting


def rival_of(page: PageState, models: PageModels, extras: WantedExtras) -> Rival | None:
    """Who else answers the next question, if two are compared; with these extras where the model has any.

    Raises NotLoaded, after which the model is being loaded, and RequestError for a setting that can't be used.
    """
    model = models.ready_rival(page)
    if model is None or page.rival is None:
        return None
    sampling = sampling_of(model.info, page.rival.values)
    return Rival(model=model, sampling=sampling, extras=WantedExtras() if model.info.extras is None else extras)


def sampling_of(info: ModelInfo, typed: Mapping[str, Any]) -> Sampling:
    """A model's settings with what was typed for some of them. Raises RequestError, one line."""
    values = [_value(one, typed.get(one.name), getattr(info.sampling, one.name)) for one in settings_of(info.sampling)]
    return check(with_values(info.sampling, values))


def typed_of(info: ModelInfo, values: Mapping[str, Any]) -> dict[str, str]:
    """What was typed for the settings of a model, as much of it as is read; the browser may send anything."""
    typed = {one.name: values.get(one.name) for one in settings_of(info.sampling)}
    return {name: str(value)[:MAX_TYPED] for name, value in typed.items() if value is not None}


def _value(setting: SamplingSetting, typed: Any, default: float | None) -> float | None:
    if typed is None:
        return default
    text = str(typed)[:MAX_TYPED].strip()
    if not text:
        return None if setting.when_empty else default
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise RequestError(f"{setting.label} of the right answer must be a number, not {text!r}.") from None
