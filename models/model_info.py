"""What the app needs to know about a loaded model, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.conversation import Sampling
from models.extras import Extras
from models.tasks import Task


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Facts about a loaded model.

    `description` is a sentence for the page; `is_toy` marks the bundled models, which know only synthetic scenes.
    `sampling` holds the family's defaults. `context_tokens` is the longest prompt plus answer in tokens. `extras`: OCR
    and image generation, where the model was trained to work with them, else None. `one_image_per_chat`: it was trained
    on conversations about one image, and the original's demo begins a new one with every image. `has_experts`: which
    experts a token is routed to can be recorded. `answers_alone`: what is computed for one conversation depends on what
    else is in the same pass, so it must be alone there, and whole. `num_parameters`, `device` and `dtype` are filled in
    by the loader.
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
    extras: Extras | None = None
    has_experts: bool = False
    answers_alone: bool = False
    num_parameters: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    quantization: str = "none"
