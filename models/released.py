"""The released files of one configuration, opened by key; tests give tensors of their own instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from models.checkpoints import find_local, find_near, resolve
from models.config import FamilyConfig
from models.errors import CheckpointCorrupt, CheckpointMissing, ConfigError
from models.module_config import explained
from models.weights import Tensors, read_tensors


class ReleasedFiles:
    """Opens what the keys of a `FamilyConfig` name. Every call to `tensors` gives a fresh dict of the same storage."""

    def __init__(self, config: FamilyConfig) -> None:
        self._config = config
        self._paths: dict[str, Path] = {}

    def path(self, key: str) -> Path:
        """Local path of the file or folder; downloads a hub repository on first use."""
        if key not in self._paths:  # asked for many times in one load, and a hub is asked over the network
            self._paths[key] = resolve(self._config, key)
        return self._paths[key]

    def source(self, key: str) -> str:
        """How messages call the file."""
        return str(self.path(key))

    def tensors(self, key: str) -> Tensors:
        """Every tensor in the file or folder, by released name, memory-mapped."""
        return dict(read_tensors(self.path(key)))

    def config_values(self, key: str) -> dict[str, Any]:
        """The folder's config.json as it stands."""
        return self.read_config(self.path(key))

    def read_config(self, folder: Path) -> dict[str, Any]:
        """A folder's config.json as it stands."""
        file = folder / "config.json"
        if not file.is_file():
            raise CheckpointMissing(f"{folder} has no config.json; it must be a transformers model folder.")
        return self.read_json(file)

    def read_json(self, file: Path) -> dict[str, Any]:
        """The values of a JSON file; none if it does not exist. Raises CheckpointCorrupt."""
        if not file.is_file():
            return {}
        try:
            values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise CheckpointCorrupt(f"{file} can't be used: {str(error).splitlines()[0]}") from error
        if not isinstance(values, dict):
            raise CheckpointCorrupt(f"{file} can't be used: it holds no keys and values.")
        return values

    def tower_folder(self, key: str, named: str | None, *, near: str = "language_model") -> Path | None:
        """A vision tower's own folder: the key's, where it is set; else one called as `named` near that of `near`.

        None where there is neither; released models carry a copy of their tower.
        """
        if getattr(self._config, key) is not None:
            return self.path(key)
        if not named:
            return None
        if (found := find_local(named, self._config)) is not None:
            return found
        return find_near(named, self.path(near))

    def has_weights(self, folder: Path) -> bool:
        """Whether a folder holds more than configuration files."""
        return any(folder.glob("*.safetensors*")) or any(folder.glob("pytorch_model*.bin*"))

    def read(self, path: Path) -> Tensors:
        """Every tensor of a file or folder that no key names itself."""
        return dict(read_tensors(path))

    def language_model_config(self, key: str) -> PreTrainedConfig:
        """The folder's config.json as a transformers configuration."""
        values = self.config_values(key)
        with explained(f"{self.source(key)}/config.json"):
            return AutoConfig.for_model(**values)

    def trained_context(self) -> int:
        """How many tokens the LLaVA line's models were trained to read, by their config.json. Raises ConfigError."""
        tokens = self.config_values("language_model").get("tokenizer_model_max_length") or 2048
        if type(tokens) is not int or tokens < 1:
            raise ConfigError(
                f"{self.source('language_model')}/config.json: tokenizer_model_max_length is {tokens!r}; it must be a "
                "positive whole number."
            )
        return tokens
