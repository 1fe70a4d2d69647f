"""What is known of the model that another server has: from the YAML, and from the server's own list of models."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from app.remote.boxes.box_format import BoxFormat
from app.remote.boxes.known import AUTO, MARKUP, box_format, guess
from app.remote.remote_config import DEFAULT_SAMPLING, FAMILY, RemoteConfig
from app.remote.remote_tasks import RemoteTask
from app.remote.server_errors import http_error
from models.command_line import version
from models.config import parse_keys
from models.conversation import Sampling
from models.errors import ConfigError, RequestError, ServerFailed, ServerLoading
from models.model_info import ModelInfo
from models.sampling_settings import check
from models.tasks import CHAT, Task

OWN = "minivlm-chat"  # what `owned_by` says in this program's list
LLAMA_CPP = "llamacpp"  # and in that of llama.cpp's server
START_SECONDS = 10.0  # for the list to come
LOADING_SECONDS = 5.0  # between two questions whether a server has loaded its model
MAX_LIST = 4 * 2**20  # bytes
CONTEXT_TOKENS = 32_768  # where neither the YAML nor the server says
MAX_IMAGES = 8
MAX_NAMED = 10  # models that an error names


@dataclass(frozen=True, kw_only=True)
class ServedElsewhere:
    """A model of another server. `is_ours`: the server is this program, too; `is_llama_cpp`: it is llama.cpp's."""

    config: RemoteConfig
    model: str
    info: ModelInfo
    boxes: BoxFormat
    is_ours: bool = False
    is_llama_cpp: bool = False

    @property
    def where(self) -> str:
        """The address, for people."""
        return self.config.base_url


def headers(config: RemoteConfig) -> dict[str, str]:
    """Those of every request."""
    key = {"authorization": f"Bearer {config.server_key}"} if config.server_key else {}
    return {"user-agent": f"minivlm-chat/{version()}", "accept-encoding": "identity", **key}


def find_served(
    config: RemoteConfig,
    *,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    wait: Callable[[float], None] = time.sleep,
) -> ServedElsewhere:
    """Ask the server what it has. While it says that it is loading, wait. Raises RequestError and ConfigError."""
    was_reported = False
    while True:
        try:
            return served_from(config, _models(config))
        except ServerLoading as error:
            if not was_reported:
                report(f"Waiting: {error}")
            was_reported = True
            wait(LOADING_SECONDS)


def _models(config: RemoteConfig) -> list[dict[str, Any]]:
    """The server's list; empty if it has none."""
    where = config.base_url
    try:
        with httpx.stream("GET", f"{where}/models", timeout=START_SECONDS, headers=headers(config)) as response:
            body = b""
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MAX_LIST:
                    raise ServerFailed(f"{where}/models is longer than {MAX_LIST >> 20} MiB: that is no list.")
    except httpx.TimeoutException as error:
        raise ServerFailed(f"{where} did not answer within {START_SECONDS:.0f} seconds; is it running?") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise no_connection(where, error) from error
    if response.status_code in (404, 405, 501) and config.server_model:
        return []
    if response.status_code != 200:
        raise http_error(
            response.status_code,
            body,
            where=where,
            location=response.headers.get("location", ""),
            key=config.server_key,
        )
    try:
        value = json.loads(body)
        listed = value["data"] if isinstance(value, dict) else value
        return [one for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ServerFailed(f"{where}/models is no list of models; is {where} the address of its API?") from error


def no_connection(where: str, error: Exception) -> ServerFailed:
    """For a server that is not there."""
    reason = str(error).strip().splitlines()
    return ServerFailed(f"Nothing answers at {where} ({reason[0] if reason else type(error).__name__}).")


def served_from(config: RemoteConfig, listed: list[dict[str, Any]]) -> ServedElsewhere:
    """The model that the configuration means, of those that the server lists."""
    entry = _chosen(config, listed)
    model = str(entry["id"])
    is_ours = entry.get("owned_by") == OWN
    name = config.boxes if config.boxes != AUTO else MARKUP if is_ours else guess(model)
    boxes = box_format(name, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
    tasks: tuple[Task, ...] = config.tasks or (_own_tasks(entry, config) if is_ours else boxes.tasks)
    sampling = config.sampling or (_own_sampling(entry) if is_ours else DEFAULT_SAMPLING)
    info = ModelInfo(
        name=config.name or str(entry.get("name") or _without_folder(model))[:200],
        family=str(entry.get("family") or FAMILY)[:100],
        tasks=tasks,
        sampling=sampling,
        description=config.description or f"Answered by {config.host}, to which questions and pictures are sent.",
        max_images_per_turn=config.max_images or _images_said(entry),
        one_image_per_chat=is_ours and entry.get("one_image_per_chat") is True,
        answers_without_image=not is_ours or entry.get("answers_without_image") is not False,
        context_tokens=config.context_tokens or _context_said(entry) or CONTEXT_TOKENS,
        device=config.host,
        dtype="",
    )
    is_llama_cpp = entry.get("owned_by") == LLAMA_CPP
    return ServedElsewhere(
        config=config, model=model, info=info, boxes=boxes, is_ours=is_ours, is_llama_cpp=is_llama_cpp
    )


def _without_folder(model: str) -> str:
    """For people: of a file's path, which llama.cpp has for a name, the file."""
    is_path = model.startswith("/") or model.lower().endswith(".gguf")
    return model.replace("\\", "/").rstrip("/").rpartition("/")[2] or model if is_path else model


def _context_said(entry: dict[str, Any]) -> int | None:
    """In the forms of vLLM, SGLang and this program, and of llama.cpp."""
    meta = entry.get("meta")
    return _number(entry, "max_model_len") or (_number(meta, "n_ctx") if isinstance(meta, dict) else None)


def _images_said(entry: dict[str, Any]) -> int:
    """In one question; none where the server lists what its model takes in, in OpenRouter's form, without images."""
    about = entry.get("architecture")
    takes = entry.get("input_modalities") or (about.get("input_modalities") if isinstance(about, dict) else None)
    if isinstance(takes, list) and takes and "image" not in takes:
        return 0
    return _number(entry, "max_images") or MAX_IMAGES


def _chosen(config: RemoteConfig, listed: list[dict[str, Any]]) -> dict[str, Any]:
    names = [str(one["id"]) for one in listed]
    if config.server_model is not None:
        if names and config.server_model not in names:
            raise RequestError(f"{config.base_url} has no model {config.server_model!r}; it has {_some(names)}.")
        return next((one for one in listed if one["id"] == config.server_model), {"id": config.server_model})
    if len(names) == 1 or (names and all(one.get("owned_by") == OWN for one in listed)):
        return listed[0]  # of our own the first is the one that answers where none is named
    if not names:
        raise RequestError(f"{config.base_url} lists no model; load one there, or name it with --server-model.")
    raise RequestError(f"{config.base_url} has several models: choose one with --server-model: {_some(names)}.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(name[:100] for name in names[:MAX_NAMED]) + more


def _number(entry: dict[str, Any], name: str) -> int | None:
    value = entry.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else None


def _own_tasks(entry: dict[str, Any], config: RemoteConfig) -> tuple[Task, ...]:
    """The buttons of the page there. Raises ConfigError for a list that is none."""
    listed = entry.get("task_buttons")
    if not isinstance(listed, list):
        return (CHAT,)
    known = {one.name for one in dataclasses.fields(Task)}
    tasks: list[Task] = []
    for one in listed[:50]:
        values = {key: value for key, value in one.items() if key in known} if isinstance(one, dict) else {}
        tasks.append(parse_keys(RemoteTask, values, where=f"{config.base_url}: task_buttons"))
    return tuple(tasks)


def _own_sampling(entry: dict[str, Any]) -> Sampling:
    """What the page there begins with; a seed is drawn here."""
    given = entry.get("sampling")
    known = {one.name for one in dataclasses.fields(Sampling)} - {"seed"}
    values = {key: value for key, value in given.items() if key in known} if isinstance(given, dict) else {}
    try:
        return check(Sampling(**values))
    except RequestError as error:
        raise ConfigError(f"The server's own settings can't be used: {error}") from error
