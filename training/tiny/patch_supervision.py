"""Supervision of the vision tower patch by patch: what every patch should know about the object that covers it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.scenes import world as vocab
from training.scenes.render import owner_map
from training.scenes.scene import Scene, SceneObject

NAMES = (*vocab.SHAPES, *vocab.DIGITS, *vocab.WORDS)
NUM_BINS = 101  # coordinate tokens <0> … <100>
UNSEEN = torch.tensor([[(name, colour) in vocab.HELD_OUT for colour in vocab.COLOURS] for name in NAMES])
"""[names, colours]: pairs that no training scene has. No loss may say that there are no such things."""
Grid = tuple[int, int]
"""Rows and columns of the patches of an image."""
_MIN_COVER = 0.2  # a patch belongs to an object that covers at least this share of it


@dataclass(frozen=True)
class PatchTargets:
    """Labels of B images with P patches each. -1 in `names` marks background patches."""

    names: Tensor  # [B, P] index into NAMES
    colours: Tensor  # [B, P]
    sizes: Tensor  # [B, P]
    patterns: Tensor  # [B, P]
    alike: Tensor  # [B, P, 2] how many objects of the scene have the name (kind, for text), and how many the colour
    boxes: Tensor  # [B, P, 4] fractions of the image
    has_centre: Tensor  # [B, P] 1.0 where the centre of an object lies
    shares: Tensor  # [B, P] 1 / number of patches of the same object, so that small objects count as much as large ones
    counts: Tensor  # [B] objects in the scene
    background_colours: Tensor  # [B]
    background_textures: Tensor  # [B]


def patch_targets(scenes: list[Scene], grid: Grid) -> PatchTargets:
    """Labels for every patch of every scene."""
    rows = [_patch_labels(scene, grid) for scene in scenes]
    labels = torch.from_numpy(np.stack([labels for labels, _, _, _ in rows]))
    return PatchTargets(
        names=labels[..., 0],
        colours=labels[..., 1],
        sizes=labels[..., 2],
        patterns=labels[..., 3],
        alike=labels[..., 4:6],
        boxes=torch.from_numpy(np.stack([boxes for _, boxes, _, _ in rows])),
        has_centre=torch.from_numpy(np.stack([centres for _, _, centres, _ in rows])),
        shares=torch.from_numpy(np.stack([shares for _, _, _, shares in rows])),
        counts=torch.tensor([len(scene.objects) for scene in scenes]),
        background_colours=torch.tensor([list(vocab.BACKGROUND_COLOURS).index(s.background.colour) for s in scenes]),
        background_textures=torch.tensor([vocab.BACKGROUND_TEXTURES.index(s.background.texture) for s in scenes]),
    )


def _patch_labels(
    scene: Scene, grid: Grid
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Class labels [P, 6], boxes [P, 4], centre flags [P] and shares [P] of one scene."""
    rows, columns = grid
    height, width = vocab.IMAGE_SIZE // rows, vocab.IMAGE_SIZE // columns
    count = len(scene.objects)
    owner = owner_map(scene).reshape(rows, height, columns, width).swapaxes(1, 2).reshape(rows * columns, -1)
    covers = np.stack([(owner == index).sum(1) for index in range(count)], axis=1)
    best = covers.argmax(1)
    is_covered = covers.max(1) >= _MIN_COVER * height * width

    table = np.array(
        [
            (
                *attribute_labels(item),
                sum(_noun(other) == _noun(item) for other in scene.objects),
                sum(other.colour == item.colour for other in scene.objects),
            )
            for item in scene.objects
        ],
        dtype=np.int64,
    )
    boxes = np.array([item.box for item in scene.objects], dtype=np.float32) / vocab.IMAGE_SIZE
    patches = np.bincount(best[is_covered], minlength=count)
    shares = (is_covered / np.maximum(patches, 1)[best]).astype(np.float32)
    return np.where(is_covered[:, None], table[best], -1), boxes[best], centre_map(scene.objects, grid), shares


def attribute_labels(item: SceneObject) -> tuple[int, int, int, int]:
    """Indices of the object's name, colour, size and pattern."""
    return (
        NAMES.index(item.name),
        list(vocab.COLOURS).index(item.colour),
        list(vocab.SIZES).index(item.size),
        vocab.PATTERNS.index(item.pattern),
    )


def centre_map(items: Sequence[SceneObject], grid: Grid) -> NDArray[np.float32]:
    """1 for every patch in which the centre of an object lies: [P]."""
    rows, columns = grid
    centres = np.zeros(grid, dtype=np.float32)
    for item in items:
        x, y = item.centre
        centres[int(y * rows // vocab.IMAGE_SIZE), int(x * columns // vocab.IMAGE_SIZE)] = 1
    return centres.reshape(-1)


def _noun(item: SceneObject) -> str:
    """What the object is counted as: its shape, "digit" or "word"."""
    return item.name if item.kind == "shape" else item.kind


def soft_bins(positions: Tensor, width: float) -> Tensor:
    """Gaussian label distributions over the 101 coordinate bins: positions [...] -> [..., 101], rows sum to 1."""
    bins = torch.arange(NUM_BINS, dtype=torch.float32, device=positions.device)
    return torch.softmax(-0.5 * ((bins - positions[..., None]) / width) ** 2, dim=-1)


def without_unseen(names: Tensor, colours: Tensor, name_labels: Tensor, colour_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of names [N, names] and colours [N, colours] of N objects, without what is unseen beside their labels."""
    unseen = UNSEEN.to(names.device)
    return (
        names.masked_fill(unseen.T[colour_labels], -math.inf),
        colours.masked_fill(unseen[name_labels], -math.inf),
    )


class PatchHeads(nn.Module):
    """Linear read-outs of patch features [B, P, D]; they exist during training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.name = nn.Linear(width, len(NAMES))
        self.colour = nn.Linear(width, len(vocab.COLOURS))
        self.size = nn.Linear(width, len(vocab.SIZES))
        self.pattern = nn.Linear(width, len(vocab.PATTERNS))
        self.box = nn.Linear(width, 4)
        self.coordinates = nn.Linear(width, 4 * NUM_BINS)
        self.is_covered = nn.Linear(width, 2)  # covered by an object, holds a centre
        self.count = nn.Linear(width, vocab.MAX_OBJECTS + 1)
        self.alike = nn.Linear(width, 2 * (vocab.MAX_OBJECTS + 1))
        self.background_colour = nn.Linear(width, len(vocab.BACKGROUND_COLOURS))
        self.background_texture = nn.Linear(width, len(vocab.BACKGROUND_TEXTURES))

    def loss(
        self, features: Tensor, targets: PatchTargets, *, bin_width: float, set_weight: float = 0.0
    ) -> tuple[Tensor, dict[str, float]]:
        """Weighted sum of all losses and, for the log, accuracies in 0…1. `features` is [B, P, D] without CLS.

        `set_weight` is that of counting, at every covered patch, the objects of the same name and of the same colour.
        """
        on = targets.names >= 0
        covered = features[on]
        boxes = targets.boxes[on]
        name, colour = without_unseen(
            self.name(covered).float(), self.colour(covered).float(), targets.names[on], targets.colours[on]
        )
        pattern = self.pattern(covered)
        box = self.box(covered).float()
        bins = self.coordinates(covered).float().view(-1, 4, NUM_BINS).log_softmax(-1)
        flags = self.is_covered(features).float()
        count = self.count(features).float()
        alike = self.alike(covered).float().view(-1, 2, vocab.MAX_OBJECTS + 1)
        patches = features.shape[1]

        weights = targets.shares[on] / targets.shares[on].sum()

        def mean(losses: Tensor) -> Tensor:
            """Over objects: [patches, ...] -> scalar."""
            return (losses.flatten(1).mean(-1) if losses.ndim > 1 else losses) @ weights

        def repeat(labels: Tensor) -> Tensor:
            return labels[:, None].expand(-1, patches).flatten()

        losses = (
            mean(F.cross_entropy(name, targets.names[on], reduction="none")),
            mean(F.cross_entropy(colour, targets.colours[on], reduction="none")),
            0.5 * mean(F.cross_entropy(self.size(covered).float(), targets.sizes[on], reduction="none")),
            mean(F.cross_entropy(pattern.float(), targets.patterns[on], reduction="none")),
            10 * mean(F.smooth_l1_loss(box, boxes, beta=0.05, reduction="none")),
            -mean((soft_bins((boxes * 100).floor(), bin_width) * bins).sum(-1)),
            F.binary_cross_entropy_with_logits(flags, torch.stack((on.float(), targets.has_centre), dim=-1)),
            0.5 * F.cross_entropy(count.flatten(0, 1), repeat(targets.counts)),
            set_weight * F.cross_entropy(alike.flatten(0, 1), targets.alike[on].flatten()),
            0.2
            * F.cross_entropy(
                self.background_colour(features).float().flatten(0, 1), repeat(targets.background_colours)
            ),
            0.2
            * F.cross_entropy(
                self.background_texture(features).float().flatten(0, 1), repeat(targets.background_textures)
            ),
        )
        with torch.no_grad():
            found = (name.argmax(-1), colour.argmax(-1), pattern.argmax(-1), alike.argmax(-1))
            report = _accuracies(targets, found, box, bins)
            report["count"] = (count.mean(1).argmax(-1) == targets.counts).float().mean().item()
        return torch.stack(losses).sum(), report


class MergedPatchHeads(PatchHeads):
    """The same read-outs for image tokens that stand for `merge` patches each: [B, P / merge, T].

    A linear layer takes the patches apart again. It asks the connector to keep what the tower knows; without it a third
    of what a token could say about its patches was lost.
    """

    def __init__(self, width: int, *, token_width: int, merge: int) -> None:
        super().__init__(width)
        self.merge = merge
        self.unmerge = nn.Linear(token_width, merge * width)

    def loss(
        self, features: Tensor, targets: PatchTargets, *, bin_width: float, set_weight: float = 0.0
    ) -> tuple[Tensor, dict[str, float]]:
        """See `PatchHeads.loss`."""
        patches = self.unmerge(F.rms_norm(features.float(), features.shape[-1:])).unflatten(-1, (self.merge, -1))
        return super().loss(patches.flatten(1, 2), targets, bin_width=bin_width, set_weight=set_weight)


def _accuracies(
    targets: PatchTargets, found: tuple[Tensor, Tensor, Tensor, Tensor], box: Tensor, bins: Tensor
) -> dict[str, float]:
    """Shares of right answers over the N covered patches.

    `found` are indices of name, colour and pattern, each [N], and of numbers alike [N, 2]; `box` is [N, 4] and `bins`
    [N, 4, 101].
    """
    on = targets.names >= 0
    names, boxes = targets.names[on], targets.boxes[on]
    is_word = names >= len(NAMES) - len(vocab.WORDS)
    name_right = (found[0] == names).float()
    by_bins = bins.argmax(-1).float().add(0.5) / 100
    return {
        "name": name_right[~is_word].mean().item(),
        "word": name_right[is_word].mean().item(),
        "colour": (found[1] == targets.colours[on]).float().mean().item(),
        "pattern": (found[2] == targets.patterns[on]).float().mean().item(),
        "alike": (found[3] == targets.alike[on]).float().mean().item(),
        "iou": iou(box, boxes).mean().item(),
        "bins_iou75": (iou(by_bins, boxes) > 0.75).float().mean().item(),
    }


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes x0, y0, x1, y1: [..., 4], [..., 4] -> [...]."""
    top_left = torch.maximum(a[..., :2], b[..., :2])
    bottom_right = torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (a, b)]
    return overlap / (areas[0] + areas[1] - overlap + 1e-9)
