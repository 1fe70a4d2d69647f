"""Finished bundled models, from whose released files other families begin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from models.loader import load_model
from models.vision_language_model import VisionLanguageModel

_CONFIGS = Path(__file__).parents[2] / "eval_configs"


def load_finished(name: str, folder: Path, **sizes: Mapping[str, object]) -> VisionLanguageModel:
    """The bundled model `name` from the files in a folder, in fp32 and with its LoRA merged.

    `sizes` are values of its eval config, such as `vision_config`. Raises MiniVLMError if a file is missing or damaged.
    """
    path = _CONFIGS / f"tiny_{name}.yaml"
    overrides = [f"{key}={json.dumps(value)}" for key, value in sizes.items()]
    for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if isinstance(value, str) and value.partition("/")[0] == f"tiny_{name}":
            overrides.append(f"{key}={folder.resolve() / value.partition('/')[2]}")
    return load_model(path, device="cpu", dtype="float32", overrides=overrides, report=None)
