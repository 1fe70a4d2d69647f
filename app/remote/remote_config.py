"""`family: remote`: the YAML of a server elsewhere, and the options that stand for one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.remote.boxes.known import AUTO, NAMES
from app.remote.boxes.qwen import MAX_PIXELS, MIN_PIXELS
from app.remote.remote_tasks import RemoteTask
from models.config import apply_override, parse_keys, read_yaml
from models.conversation import Sampling
from models.errors import ConfigError, RequestError
from models.sampling_settings import check

FAMILY = "remote"
KEY_VARIABLE = "MINIVLM_SERVER_KEY"
# Of servers that do not say; not every one knows a repetition penalty.
DEFAULT_SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=1024, repetition_penalty=1.0)


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """The keys of such a YAML; docs/configuration.md says what each does. What is None is asked of the server."""

    source: Path
    family: str = FAMILY
    server_url: str
    server_key: str | None = None
    server_model: str | None = None
    name: str = ""
    description: str = ""
    boxes: str = AUTO
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS
    tasks: tuple[RemoteTask, ...] = ()
    sampling: Sampling | None = None
    context_tokens: int | None = None
    max_images: int | None = None
    timeout: float = 600.0  # seconds without a new piece of text
    extra_body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.server_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"{self.source}: server_url is {self.server_url!r}; write an address such as http://host:8000/v1."
            )
        if parts.username or parts.query or parts.fragment:
            raise ConfigError(
                f"{self.source}: server_url must be the address alone; a key goes into --server-key or {KEY_VARIABLE}."
            )
        if self.boxes not in NAMES:
            raise ConfigError(f"{self.source}: boxes is {self.boxes!r}; choose one of {', '.join(NAMES)}.")
        if not self.timeout > 0:
            raise ConfigError(f"{self.source}: timeout is {self.timeout:g}; it must be more than 0 seconds.")
        for name in ("context_tokens", "max_images", "min_pixels", "max_pixels"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{self.source}: {name} is {value}; it must be more than 0.")

    @property
    def base_url(self) -> str:
        """The address without a slash at its end; an address without a path gets `/v1`."""
        url = self.server_url.rstrip("/")
        return url if urlsplit(url).path else f"{url}/v1"

    @property
    def host(self) -> str:
        """Name and port of the server."""
        return urlsplit(self.server_url).netloc


def remote_config(
    path: Path | None, overrides: Sequence[str], *, url: str | None, key: str | None, model: str | None
) -> RemoteConfig | None:
    """The configuration of a server elsewhere, if an address is given or the YAML is one; else None.

    Options outweigh the YAML. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    if path is not None and path.is_file():
        values = read_yaml(path)
    is_remote = values.get("family") == FAMILY
    if url is None and not is_remote:
        if key is not None or model is not None:
            raise RequestError("--server-key and --server-model go with --server-url, or with a YAML of family remote.")
        return None
    if not is_remote:
        if values:
            raise RequestError(f"--server-url asks another server, so {path} is not loaded: leave one of them out.")
        values = {"family": FAMILY}
    given = {"server_url": url, "server_key": key or os.environ.get(KEY_VARIABLE), "server_model": model}
    values |= {name: value for name, value in given.items() if value}
    for override in overrides:
        apply_override(values, override)
    where = str(path) if is_remote else "--server-url"
    # Keys of the sampling that are not given are the server's, which is not known yet.
    sampling = values.pop("sampling", None)
    config: RemoteConfig = parse_keys(RemoteConfig, values | {"source": Path(where)}, where=where)
    return config if sampling is None else _with_sampling(config, sampling, where)


def _with_sampling(config: RemoteConfig, values: Any, where: str) -> RemoteConfig:
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: sampling is {values!r}; it must be a mapping of keys.")
    sampling: Sampling = parse_keys(Sampling, values, where=f"{where}: sampling", base=DEFAULT_SAMPLING)
    try:
        return replace(config, sampling=check(sampling))
    except RequestError as error:
        raise ConfigError(f"{where}: sampling: {error}") from error
