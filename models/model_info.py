"""What the app needs to know about a loaded model, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.aids import Aids
from models.conversation import Sampling
from models.tasks import Task


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Facts about a loaded model.

    `description` is a sentence for the page; `is_toy` marks the bundled models, which know only synthetic scenes.
    `sampling` holds the family's defaults. `context_tokens` is the longest prompt plus answer. `aids`: the programs
    beside the model that it was trained to work with, None if there are none. `one_image_per_chat`: it was trained on
    conversations about one image, and the original's demo begins a new one with every image. `has_experts`: which
    expert a token goes to can be traced.
    """

    name: str
    family: str
    tasks: tuple[Task, ...]
    sampling: Sampling = field(default_factory=Sampling)
    description: str = ""
    is_toy: bool = False
    max_images_per_turn: int = 1
    one_image_per_chat: bool = False
    answers_without_image: bool = True
    context_tokens: int = 2048
    aids: Aids | None = None
    has_experts: bool = False
    num_parameters: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    quantization: str = "none"
