"""What is served under which name: all that the routes know of models, wherever those run."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from app.api.openai.api_errors import ApiError
from engine.chat_model import ChatModel

ServiceState = Literal["ready", "loading", "stopping"]


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model that answers under `id`; `created` is when it was loaded, in seconds since 1970."""

    id: str
    model: ChatModel
    created: int = field(default_factory=lambda: int(time.time()))

    def as_json(self) -> dict[str, Any]:
        """Its entry in `/v1/models`: OpenAI's fields, then what a client may want to know beforehand."""
        info = self.model.info
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": "minivlm-chat",
            "name": info.name,
            "family": info.family,
            "max_model_len": info.context_tokens,
            "max_images": info.max_images_per_turn,
            "tasks": [task.identifier.strip("[]") for task in info.tasks if task.identifier],
            "task_buttons": [asdict(task) for task in info.tasks],
            "sampling": asdict(info.sampling),
            "one_image_per_chat": info.one_image_per_chat,
            "answers_without_image": info.answers_without_image and not info.one_image_per_chat,
            "device": info.device,
            "dtype": info.dtype,
            "quantization": info.quantization,
        }


class ServedModels(Protocol):
    """The models that can be asked now."""

    @property
    def state(self) -> ServiceState:
        """Whether questions are answered; if not, why."""

    def served(self) -> Sequence[ServedModel]:
        """Those that answer; the first is who answers a request that names none."""

    def others(self) -> Sequence[Mapping[str, Any]]:
        """Entries for `/v1/models` of those that would have to be loaded."""
        return ()

    def missing(self, name: str | None) -> ApiError:
        """Why a model that is not among the served ones, or any if there is none, can't be asked."""
        return unknown_model(name or "", [one.id for one in self.served()])


class OneModel(ServedModels):
    """One model, from the start to the end."""

    def __init__(self, name: str, model: ChatModel) -> None:
        self._served = ServedModel(id=name, model=model)
        self._state: ServiceState = "ready"

    @property
    def state(self) -> ServiceState:
        return self._state

    def served(self) -> Sequence[ServedModel]:
        return (self._served,)

    def stop(self) -> None:
        """Answer no more questions."""
        self._state = "stopping"


def find_model(models: ServedModels, name: str | None) -> ServedModel:
    """The model of this name, or the first. Raises ApiError: 404 for an unknown name, 503 if it can't be asked now."""
    check_ready(models)
    served = models.served()
    found = next((one for one in served if name in (None, one.id)), None)
    if found is None:
        raise models.missing(name)
    return found


def unknown_model(name: str, there: Sequence[str]) -> ApiError:
    """404 for a name that nothing has."""
    message = f"There is no model {reprlib.repr(name)} here; there is {', '.join(there)}."
    return ApiError(404, message, code="model_not_found", param="model")


def check_ready(models: ServedModels) -> None:
    """Raises ApiError 503 while questions can't be answered."""
    if models.state == "loading":
        raise ApiError(503, "The model is still loading; ask again in a moment.", code="model_loading")
    if models.state == "stopping":
        raise ApiError(503, "The server is being stopped.", code="server_stopping")
