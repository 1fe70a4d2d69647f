"""What whoever asks a replica knows of it; nothing here imports torch, as a door and a batch have no model."""

from __future__ import annotations

from dataclasses import dataclass

from models.model_info import ModelInfo
from models.prompt import PromptFormat


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What whoever asks a replica must know of its model; the same for all replicas of a deployment."""

    info: ModelInfo
    prompt_format: PromptFormat
    created: int
