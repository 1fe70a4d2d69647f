"""The released files of one configuration, opened by key; tests give tensors of their own instead."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from models.checkpoints import resolve
from models.config import FamilyConfig
from models.errors import CheckpointCorrupt, CheckpointMissing
from models.weights import Tensors, read_tensors


class ReleasedFiles:
    """Opens what the keys of a `FamilyConfig` name. Every call to `tensors` gives a fresh dict of the same storage."""

    def __init__(self, config: FamilyConfig) -> None:
        self._config = config

    def path(self, key: str) -> Path:
        """Local path of the file or folder; downloads a hub repository on first use."""
        return resolve(self._config, key)

    def source(self, key: str) -> str:
        """How messages call the file."""
        return str(self.path(key))

    def tensors(self, key: str) -> Tensors:
        """Every tensor in the file or folder, by released name, memory-mapped."""
        return dict(read_tensors(self.path(key)))

    def language_model_config(self, key: str) -> PreTrainedConfig:
        """The folder's config.json as a transformers configuration."""
        folder = self.path(key)
        if not (folder / "config.json").is_file():
            raise CheckpointMissing(f"{folder} has no config.json; {key} must be a transformers model folder.")
        try:
            return AutoConfig.from_pretrained(folder)
        except (ValueError, OSError, KeyError) as error:
            raise CheckpointCorrupt(f"{folder / 'config.json'} can't be used: {str(error).splitlines()[0]}") from error
