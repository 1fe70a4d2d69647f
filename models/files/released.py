"""The released files of one configuration, opened by key; tests give tensors of their own instead."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from models.errors import CheckpointMismatch, CheckpointMissing, ConfigError
from models.family_config import FamilyConfig
from models.fetching.checkpoints import find_named, find_near, resolve, resolve_base
from models.files.adapters import adapter_values, is_adapter_folder, read_lora, trained_in_full
from models.files.json_file import json_values
from models.files.rope import one_rope
from models.tensors.foreign import already_quantized, packed_by
from models.tensors.module_config import as_config_error
from models.tensors.state_dicts import load_pickle
from models.tensors.weights import Lora, Tensors, read_tensors

# What programs write into a config.json that says how a model was run, not what it is: what its layers return, which
# kernels they use. Here it is the engine's to say.
_HOW_IT_WAS_RUN = frozenset(
    {
        "_attn_implementation", "_experts_implementation", "attn_implementation", "cache_implementation",
        "experts_implementation", "gradient_checkpointing", "id2label", "is_encoder_decoder", "label2id", "layer_types",
        "output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "torchscript", "use_cache",
        "use_return_dict",
    }
)  # fmt: skip


class ReleasedFiles:
    """Opens what the keys of a `FamilyConfig` name. Every call to `tensors` gives a fresh dict of the same storage."""

    def __init__(self, config: FamilyConfig) -> None:
        self._config = config
        self._paths: dict[str, Path] = {}

    def path(self, key: str) -> Path:
        """Local path of the file or folder; downloads a hub repository on first use."""
        if key not in self._paths:  # asked for many times in one load, and a hub is asked over the network
            self._paths[key] = self._base if key == "language_model" else resolve(self._config, key)
        return self._paths[key]

    @cached_property
    def adapter(self) -> Path | None:
        """The folder of a LoRA adapter: the key's, or what `language_model` names where that is such a folder."""
        if not hasattr(self._config, "adapter"):
            return None
        if self._config.adapter is not None:
            return resolve(self._config, "adapter")
        named = resolve(self._config, "language_model")
        return named if is_adapter_folder(named) else None

    @property
    def _base(self) -> Path:
        """The folder of the language model itself."""
        if self.adapter is None or getattr(self._config, "adapter", None) is not None:
            return resolve(self._config, "language_model")
        return resolve_base(
            self._config, self.adapter, str(adapter_values(self.adapter).get("base_model_name_or_path"))
        )

    def lora(self) -> Lora | None:
        """The adapter's LoRA, by the released names of the weights that it updates. Raises MiniVLMError."""
        return None if self.adapter is None else read_lora(self.adapter, self.tensors("language_model").keys())

    def source(self, key: str) -> str:
        """The path of the file or folder, as messages give it."""
        return str(self.path(key))

    def tensors(self, key: str) -> Tensors:
        """Every tensor in the file or folder, by released name, memory-mapped; what an adapter trained in full wins."""
        own = trained_in_full(self.adapter) if key == "language_model" and self.adapter is not None else {}
        tensors = read_tensors(self.path(key))
        if not self._config.is_converted and (who := packed_by(tensors)):
            raise CheckpointMismatch(already_quantized(self.path(key), who))
        return {**tensors, **own}

    def saved_settings(self, key: str) -> dict[str, Any]:
        """The training's settings inside of a `.pth` ("config" of a MiniGPT runner's file); often there are none."""
        path = self.path(key)
        content = load_pickle(path) if path.is_file() and path.suffix != ".safetensors" else None
        settings = content.get("config") if isinstance(content, dict) else None
        return settings if isinstance(settings, dict) else {}

    def config_values(self, key: str) -> dict[str, Any]:
        """What the folder's config.json says; an adapter's own says what its training had otherwise.

        Raises CheckpointMismatch for weights that another program has quantized, and for values that contradict.
        """
        values = self.read_config(self.path(key))
        packed = values.get("quantization_config")
        if isinstance(packed, dict) and not self._config.is_converted:
            raise CheckpointMismatch(already_quantized(self.path(key), str(packed.get("quant_method"))))
        folder = self.config_folder(key)
        values = values if folder == self.path(key) else values | self.read_config(folder)
        return one_rope(values, where=f"{folder}/config.json")

    def config_folder(self, key: str) -> Path:
        """The folder whose config.json has the last word."""
        adapter = self.adapter if key == "language_model" else None
        return adapter if adapter is not None and (adapter / "config.json").is_file() else self.path(key)

    def read_config(self, folder: Path) -> dict[str, Any]:
        """What a folder's config.json says of the model."""
        file = folder / "config.json"
        if not file.is_file():
            raise CheckpointMissing(f"{folder} has no config.json; {folder_kind(folder)}")
        return _what_it_is(self.read_json(file))

    def read_json(self, file: Path) -> dict[str, Any]:
        """The values of a JSON file; none if it does not exist. Raises CheckpointCorrupt."""
        return json_values(file) if file.is_file() else {}

    def tower_folder(self, key: str, named: str | None, *, near: str = "language_model") -> Path | None:
        """A vision tower's own folder: the key's, where it is set; else one called as `named` near that of `near`.

        None where there is neither; released models carry a copy of their tower.
        """
        if getattr(self._config, key) is not None:
            return self.path(key)
        if not named:
            return None
        if (found := find_named(named, self._config)) is not None:
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
        with as_config_error(f"{self.source(key)}/config.json"):
            return AutoConfig.for_model(**values)

    def trained_context(self) -> int:
        """How many tokens the LLaVA line's models were trained to read, by their config.json. Raises ConfigError."""
        tokens = self.config_values("language_model").get("tokenizer_model_max_length") or 2048
        if type(tokens) is not int or tokens < 1:
            raise ConfigError(
                f"{self.config_folder('language_model')}/config.json: tokenizer_model_max_length is {tokens!r}; it "
                "must be a positive whole number."
            )
        return tokens


def _what_it_is(values: dict[str, Any]) -> dict[str, Any]:
    """Values of a config.json, and of those inside of it, without how the model was run."""
    return {
        key: _what_it_is(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in _HOW_IT_WAS_RUN
    }


def folder_kind(folder: Path) -> str:
    """What a folder without config.json is, and what to do, as the second half of a message."""
    if (folder / "adapter_config.json").is_file():
        return (
            "it is a LoRA adapter (adapter_config.json); merge it into its base model (peft: merge_and_unload) first."
        )
    if (folder / "trainer_state.json").is_file():
        return "it is a training checkpoint, to go on training from; the released form is what the training exports."
    return "it must be a transformers model folder."
