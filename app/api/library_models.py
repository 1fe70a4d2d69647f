"""The library for the API: which models answer now, which could be loaded, and what a question to one of those does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.api.openai.api_errors import ApiError
from app.api.openai.served import ServedModel, ServedModels, ServiceState, unknown_model
from app.library.library import ModelLibrary
from engine.stats import Counters
from models.errors import MiniVLMError


class LibraryModels(ServedModels):
    """Models of a library. One that is here and not loaded is loaded by the first request that names it."""

    def __init__(self, library: ModelLibrary) -> None:
        self._library = library
        self._state: ServiceState = "ready"

    @property
    def state(self) -> ServiceState:
        """See ServedModels."""
        return self._state

    def served(self) -> Sequence[ServedModel]:
        """Those that are loaded, in the order of the library."""
        loaded = self._library.loaded().items()
        return [ServedModel(id=name, model=self._library.model(name), created=one.created) for name, one in loaded]

    def others(self) -> Sequence[Mapping[str, Any]]:
        """Those that are here and not loaded: what is known of them."""
        return [
            {
                "id": entry.offer.id,
                "object": "model",
                "created": 0,
                "owned_by": "minivlm-chat",
                "name": entry.offer.name,
                "family": entry.offer.family,
                "state": entry.state,
            }
            for entry in self._library.entries
            if entry.state not in ("loaded", "not here")
        ]

    def missing(self, name: str | None) -> ApiError:
        """Why this model, or any, can't be asked now. It is being loaded after that, if it can be."""
        entries = self._library.entries
        entry = next((one for one in entries if one.offer.id == name), None if name else entries[0])
        if entry is None:
            return unknown_model(name or "", [one.offer.id for one in entries if one.state != "not here"])
        if entry.state == "not here":
            message = f"{entry.offer.name} can't be loaded. {entry.line}"
            return ApiError(404, message, code="model_not_found", param="model")
        if entry.state == "downloading":
            return ApiError(503, f"{entry.offer.name} is being downloaded.", code="model_loading")
        failed = entry.line if entry.state == "here" else ""
        self._want(entry.offer.id)
        if failed:  # the last time; that it is tried again is no reason for the client to repeat this
            return ApiError(503, f"{entry.offer.name}: {failed}", code="model_not_loaded", is_final=True)
        return ApiError(503, f"{entry.offer.name} is being loaded; ask again in a moment.", code="model_loading")

    def _want(self, name: str) -> None:
        try:
            self._library.want(name)
        except MiniVLMError as error:
            raise ApiError(503, str(error), code="server_stopping") from error

    def stats(self) -> Mapping[str, Counters]:
        """The counters of each model that is loaded, by its name; without a name where there is but one model."""
        found = self._library.stats()
        has_names = len(self._library.entries) > 1
        return {name if has_names else "": one for name, one in found.items()}

    def stop(self) -> None:
        """Answer no more questions."""
        self._state = "stopping"
