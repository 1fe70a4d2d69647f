"""Values of config.json, and of a checkpoint's own settings, that change what is computed: honoured, or refused.

Each family lists in `AS_RELEASED` the values that its code has built in, because every released model has them. A model
that was trained with another one would load and answer, only worse; so it is refused in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.errors import CheckpointMismatch
from models.files.adapters import usable_alpha
from models.files.released import ReleasedFiles

DEFAULT_ALPHA = 16.0  # `lora_alpha` of the originals' code

# What both families of the LLaVA line take for granted. A key that is absent, or null, is as released.
LLAVA_AS_RELEASED: dict[str, tuple[Any, ...]] = {
    "mm_use_im_start_end": (False,),  # two more tokens around an image
    "mm_projector_type": ("mlp2x_gelu",),
    "image_projector_type": ("mlp2x_gelu",),  # MoE-LLaVA's name for it
    "mm_patch_merge_type": ("flat",),  # of LLaVA 1.6: pictures in pieces, with a token at each line's end
    "image_aspect_ratio": ("pad", "square"),
    "use_mm_proj": (True,),
}


def check_as_released(values: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]], *, source: str) -> None:
    """Raises CheckpointMismatch for a value of config.json with which the model would compute something else."""
    for key, allowed in known.items():
        if (value := values.get(key)) is not None and value not in allowed:
            raise CheckpointMismatch(
                f"{source}/config.json: {key} is {value!r}; only {' or '.join(map(repr, allowed))} is supported here, "
                "which all released models of this family have."
            )


def trained_alpha(files: ReleasedFiles, asked: float | None, *, where: str) -> float:
    """The LoRA's alpha: the checkpoint's own settings say it where they are in the file, else the YAML, else 16.

    Raises CheckpointCorrupt where the file's is no number, CheckpointMismatch where the YAML says another.
    """
    saved = files.saved_settings("checkpoint").get("model")
    trained = saved.get("lora_alpha") if isinstance(saved, Mapping) else None
    if trained is None:
        return DEFAULT_ALPHA if asked is None else asked
    trained = usable_alpha(trained, source=files.source("checkpoint"))
    if asked is not None and asked != trained:
        raise CheckpointMismatch(
            f"{where}: lora_alpha is {asked:g}, but {files.source('checkpoint')} says it was trained with {trained:g}; "
            "leave that key out."
        )
    return trained
