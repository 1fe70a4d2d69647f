"""Which expert each token of a conversation went to: what a model with sparse experts can tell about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Fit = Literal["pad", "crop", "stretch"]  # how a picture becomes a square


@dataclass(frozen=True)
class PatchGrid:
    """Where an image's tokens lie: a square of `side` x `side` patches in raster order, the first token at `first`.

    `first` is 1 where the model leaves the top-left patch out. `fit`: the square is the picture padded, its middle, or
    all of it squeezed.
    """

    side: int
    first: int
    fit: Fit


@dataclass(frozen=True)
class LayerRouting:
    """The first and the second expert of every token in one layer, counted from 0."""

    layer: int
    num_experts: int
    first: tuple[int, ...]
    second: tuple[int, ...]


@dataclass(frozen=True)
class RoutingTrace:
    """All sparse layers of one conversation with its answer.

    `images` says of every token which picture it belongs to (from 0, in the prompt's order), or None for text.
    """

    layers: tuple[LayerRouting, ...]
    images: tuple[int | None, ...]
    grid: PatchGrid

    @property
    def last_image(self) -> int | None:
        """The picture that the last question is about."""
        return max((image for image in self.images if image is not None), default=None)

    def tokens(self, image: int | None) -> list[int]:
        """Positions of a picture's tokens, or of all text."""
        return [position for position, owner in enumerate(self.images) if owner == image]


def shares(choices: Sequence[int], positions: Sequence[int], num_experts: int) -> list[float]:
    """How large a part of these positions chose each expert."""
    counts = [0] * num_experts
    for position in positions:
        counts[choices[position]] += 1
    return [count / max(1, len(positions)) for count in counts]
