"""Whether a model fits the hardware of a Space, and in how many bits: said before a folder is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from app.spaces.lanes import LANES, Hardware, Lane
from models.errors import ConfigError
from models.family_config import FamilyConfig
from models.fetching.checkpoints import needed_files
from models.memory.released_sizes import released_sizes
from models.memory.serving import size
from models.memory.sizes import HEADROOM

_BITS = {"float32": "32 bits", "16 bit": "16 bits", "8bit": "8 bits", "4bit": "4 bits"}


def fitted(lane_name: str, config: FamilyConfig) -> tuple[Lane, str]:
    """The lane with the one hardware and the precision that suit a model, and a line about it ("" for a bundled one).

    Raises ConfigError, with the figures, for a model that has room on no hardware of the lane.
    """
    lane, name = LANES[lane_name], config.name or config.source.stem
    if config.is_toy:
        return lane, ""
    sizes = _sizes(config)
    if sizes is None:
        return lane, (
            f"note: whether {name} fits {lane.hardware[0]} can't be told: it is none of the released models, and not "
            "all of its files are here. Once they are, python -m models verify tells its memory."
        )
    if (choice := _choice(lane, sizes, config)) is not None:
        hardware, precision = choice
        arguments = (*lane.arguments, *_arguments(precision, lane, config))
        line = f"{name}: {size(sizes[precision])} of weights in {_BITS[precision]} fit {hardware}."
        slow = " Its two cores take seconds for a word; --lane zerogpu or gpu is quicker." * (not lane.has_gpu)
        return replace(lane, hardware=(hardware,), arguments=arguments), line + slow
    figures = ", ".join(f"{size(sizes[precision])} in {_BITS[precision]}" for precision in _wanted(lane, config))
    others = [other for other in LANES if _choice(LANES[other], sizes, config) is not None]
    what_to_do = f"Take --lane {' or '.join(others)}." if others else "No lane has room for it as it is configured."
    raise ConfigError(
        f"{config.source}: {name} does not fit {lane.hardware[-1]}: its weights are {figures}, and need a twentieth "
        f"more to work with. {what_to_do}"
    )


def _sizes(config: FamilyConfig) -> Mapping[str, int] | None:
    """Bytes of all weights by precision: of the files that are here, else of the released model."""
    if all(file.state == "here" for file in needed_files(config)):
        from models.inspection.verify import weight_sizes

        return weight_sizes(config)
    return released_sizes(config.family, str(getattr(config, "language_model", "")))


def _choice(lane: Lane, sizes: Mapping[str, int], config: FamilyConfig) -> tuple[Hardware, str] | None:
    """The most bits that fit, on the smallest hardware of the lane that has room for them; None: nothing does."""
    for precision in _wanted(lane, config):
        for hardware in lane.hardware:
            if sizes[precision] * HEADROOM <= hardware.room:
                return hardware, precision
    return None


def _wanted(lane: Lane, config: FamilyConfig) -> tuple[str, ...]:
    """The lane's precisions, as far as the YAML leaves them open."""
    if lane.sets_precision:
        return lane.precisions
    if config.is_quantized:
        return (config.quantization,)
    if config.dtype == "float32":
        return ("float32",)
    barred = {"float32"} if config.dtype != "auto" else set()
    barred |= {"8bit", "4bit"} if config.quantization == "none" else set()
    return tuple(precision for precision in lane.precisions if precision not in barred)


def _arguments(precision: str, lane: Lane, config: FamilyConfig) -> list[str]:
    """What demo.py is told so that it loads in this precision: only what it would not choose by itself."""
    told: list[str] = []
    if lane.sets_precision:
        return told
    if config.dtype == "auto" and not lane.has_gpu and precision != "float32":
        told += ["--dtype", "bfloat16"]
    if config.quantization == "auto" and precision in ("8bit", "4bit"):
        told += ["--quantization", precision]
    return told
