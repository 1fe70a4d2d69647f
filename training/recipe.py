"""The YAML of a training stage, typed and strict: what starts, what learns, from which data, on which schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from models.config import apply_override, parse_keys, read_yaml
from models.errors import ConfigError

MIXINGS = ("ratio", "shuffle", "by_length")
PRECISIONS = ("no", "fp16", "bf16")
TRACKERS = ("tensorboard", "wandb", "none")
SCHEDULES = ("minigpt", "warmup_cosine")
ASPECT_RATIOS = ("pad", "square")

# What numbers must be at least, and what they must lie below; a negative warmup_lr has a meaning.
_RANGES = {
    "gradient_accumulation": (1, math.inf),
    "seed": (0, math.inf),
    "save_every_steps": (1, math.inf),
    "keep_checkpoints": (1, math.inf),
    "log_every_steps": (1, math.inf),
    "data.workers": (0, math.inf),
    "data.max_missing_images": (0, math.inf),
    "data.max_missing_share": (0, math.inf),
    "text.max_tokens": (1, math.inf),
    "schedule.init_lr": (1e-12, math.inf),
    "schedule.min_lr": (0, math.inf),
    "schedule.warmup_steps": (0, math.inf),
    "schedule.warmup_ratio": (0, 1),
    "schedule.epochs": (1, math.inf),
    "optimiser.weight_decay": (0, math.inf),
    "optimiser.beta2": (0, 1),
    "lora.rank": (1, math.inf),
    "lora.alpha": (0, math.inf),
    "lora.dropout": (0, 1),
    "evaluation.every_steps": (0, math.inf),
    "evaluation.num_batches": (1, math.inf),
    "evaluation.num_answers": (0, math.inf),
    "evaluation.max_new_tokens": (1, math.inf),
}


@dataclass(frozen=True, kw_only=True)
class DatasetRecipe:
    """One data set: its annotation format, where it lies, how often it is drawn, how many samples at once.

    `annotations` and `images` are relative to `data.folder`; `batch_size` 0 takes `data.batch_size`.
    """

    format: str
    annotations: str
    images: str = "."
    ratio: float = 1.0
    batch_size: int = 0


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """The mixture. `mixing`: `ratio` draws a data set for each batch in proportion to its ratio (the MiniGPT line);
    `shuffle` and `by_length` go once through all of them, by_length in batches of like modality and length (LLaVA).

    Examples without their picture or anything to learn are left out, up to a number and a share (0…1) of a data set.
    """

    datasets: tuple[DatasetRecipe, ...]
    folder: str = "data"
    mixing: str = "ratio"
    batch_size: int = 0
    workers: int = 4
    max_missing_images: int = 100
    max_missing_share: float = 0.1


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """How an example becomes a sequence.

    `prompt` is one of the family's: `image`, `alignment`, `instruction` (the MiniGPT line), `plain`, `chat` (LLaVA's).
    `template` goes round a question, `answer_end` behind an answer. `max_tokens` cuts answers (MiniGPT
    line) or whole sequences (LLaVA line).
    """

    prompt: str
    template: str = "{}"
    answer_end: str = ""
    max_tokens: int = 2048
    image_aspect_ratio: str = "pad"


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """`minigpt` needs every rate and `steps_per_epoch`; `warmup_cosine` has `init_lr`, `warmup_ratio` and `epochs`."""

    kind: str
    init_lr: float
    epochs: int
    min_lr: float = 0.0
    warmup_lr: float = -1.0
    warmup_steps: int = 0
    steps_per_epoch: int = 0
    warmup_ratio: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OptimiserRecipe:
    """AdamW. `lr_factors`: parameters whose released name contains the key learn at this multiple of the rate."""

    weight_decay: float = 0.05
    beta2: float = 0.999
    lr_factors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """Sizes of the adapters a stage that starts from nothing is given; dropout is used by every stage that has them."""

    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.05


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """Every so many steps: the loss on held-out data, if any is named, and answers to a few of its questions."""

    every_steps: int = 0
    datasets: tuple[DatasetRecipe, ...] = ()
    num_batches: int = 16
    num_answers: int = 8
    max_new_tokens: int = 100


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All keys of a training YAML. `source` is the file itself.

    `model` holds the keys of an eval config; without a checkpoint (or projector) the stage starts from the base models.
    `model_fields` (the LLaVA line) are fields of the model folder's config.json: image size, grid, sequence length.
    `deepspeed` is a configuration file of DeepSpeed, here or beside the YAML; `fsdp` shards with torch's FSDP 2.
    """

    source: Path
    name: str
    model: dict[str, Any]
    stage: str
    text: TextRecipe
    data: DataRecipe
    schedule: ScheduleRecipe
    output_dir: str
    optimiser: OptimiserRecipe = field(default_factory=OptimiserRecipe)
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    model_fields: dict[str, Any] = field(default_factory=dict)
    precision: str = "bf16"
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    deepspeed: str | None = None
    fsdp: bool = False
    seed: int = 42
    save_every_steps: int = 1000
    keep_checkpoints: int = 2
    log_every_steps: int = 10
    tracker: str = "tensorboard"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("data.mixing", self.data.mixing, MIXINGS),
            ("precision", self.precision, PRECISIONS),
            ("tracker", self.tracker, TRACKERS),
            ("schedule.kind", self.schedule.kind, SCHEDULES),
            ("text.image_aspect_ratio", self.text.image_aspect_ratio, ASPECT_RATIOS),
        ):
            if value not in allowed:
                raise ConfigError(f"{self.source}: {name} is {value!r}; choose one of {', '.join(allowed)}.")
        self._check_numbers()
        for dataset in (*self.data.datasets, *self.evaluation.datasets):
            if dataset.ratio <= 0 or self.batch_size_of(dataset) <= 0:
                raise ConfigError(f"{self.source}: {dataset.format} needs a ratio and a batch_size above 0.")
        if self.fsdp and self.deepspeed:
            raise ConfigError(f"{self.source}: fsdp and deepspeed exclude each other; add --options deepspeed=null.")
        if not self.data.datasets:
            raise ConfigError(f"{self.source}: data.datasets is empty; name at least one.")
        if self.schedule.kind == "minigpt" and self.schedule.steps_per_epoch <= 0:
            raise ConfigError(f"{self.source}: schedule.steps_per_epoch must be above 0 for the schedule minigpt.")
        if (self.schedule.kind == "minigpt") != (self.data.mixing == "ratio"):
            raise ConfigError(f"{self.source}: the schedule minigpt and data.mixing ratio belong together.")

    def _check_numbers(self) -> None:
        for name, (least, limit) in _RANGES.items():
            value = attrgetter(name)(self)
            if not least <= value < limit:
                below = "" if limit == math.inf else f" and below {limit}"
                raise ConfigError(f"{self.source}: {name} is {value}; it must be {least} or more{below}.")

    @property
    def family(self) -> str:
        """The family of `model`."""
        return str(self.model["family"])

    def batch_size_of(self, dataset: DatasetRecipe) -> int:
        """Samples of one batch on one device."""
        return dataset.batch_size or self.data.batch_size


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a training YAML, apply `a.b=value` overrides, and check names, types and values. Raises ConfigError."""
    path = Path(path)
    values = read_yaml(path)
    for override in overrides:
        apply_override(values, override)
    if not isinstance(values.get("model"), dict) or not isinstance(values["model"].get("family"), str):
        raise ConfigError(f"{path}: model.family is missing; `model` holds the keys of an eval config.")
    values = {**values, "stage": str(values["stage"])} if "stage" in values else values
    recipe: Recipe = parse_keys(Recipe, values | {"source": path.absolute()}, where=str(path))
    return recipe
