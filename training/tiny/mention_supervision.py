"""Supervision of the decoder's middle: what it should know where objects are mentioned, in questions and answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.scenes import world as vocab
from training.tiny.patch_supervision import (
    NAMES,
    NUM_BINS,
    Grid,
    PatchHeads,
    attribute_labels,
    centre_map,
    iou,
    soft_bins,
    without_unseen,
)
from training.tiny.token_rows import Mention

_IGNORED = -100  # of cross_entropy
_NUM_ATTRIBUTES = 4


@dataclass(frozen=True)
class MentionTargets:
    """Labels of N mentions."""

    boxes: Tensor  # [N, 4] fractions of the image, NaN unless the mention fits exactly one object
    attributes: Tensor  # [N, 4] labels of that object's name, colour, size and pattern, or -100
    centres: Tensor  # [N, P] 1.0 where the centre of an object lies that the mention fits
    counts: Tensor  # [N] how many objects a phrase fits, -100 for mentions that are no phrases


def mention_targets(mentions: Sequence[Mention], grid: Grid) -> MentionTargets:
    """Labels for all mentions."""
    nowhere, unknown = (math.nan,) * 4, (_IGNORED,) * _NUM_ATTRIBUTES
    single = [mention.items[0] if len(mention.items) == 1 else None for mention in mentions]
    centres = np.array([centre_map(mention.items, grid) for mention in mentions], dtype=np.float32)
    return MentionTargets(
        boxes=torch.tensor([item.box if item else nowhere for item in single]).view(-1, 4) / vocab.IMAGE_SIZE,
        attributes=torch.tensor(
            [attribute_labels(item) if item else unknown for item in single], dtype=torch.long
        ).view(-1, _NUM_ATTRIBUTES),
        centres=torch.from_numpy(centres.reshape(-1, grid[0] * grid[1])),
        counts=torch.tensor([len(m.items) if m.is_counted else _IGNORED for m in mentions], dtype=torch.long),
    )


class MentionHead(nn.Module):
    """Reads from the middle of the decoder which objects are meant, where and what they are.

    It exists during training only. Knowing the places of two objects at their phrases is half of the answer to how they
    lie to each other, which is otherwise learnt last.
    """

    def __init__(self, width: int, num_patches: int) -> None:
        super().__init__()
        self.coordinates = nn.Linear(width, 4 * NUM_BINS)
        self.centres = nn.Linear(width, num_patches)
        self.attributes = nn.ModuleList(
            nn.Linear(width, classes)
            for classes in (len(NAMES), len(vocab.COLOURS), len(vocab.SIZES), len(vocab.PATTERNS))
        )
        self.count = nn.Linear(width, vocab.MAX_OBJECTS + 1)

    def loss(
        self, hidden: Tensor, targets: MentionTargets, *, bin_width: float, set_weight: float
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss and, for the log, mean IoU and shares of right centre maps, names and counts; hidden is [N, D].

        `set_weight` is that of what concerns several objects or none: the map of their centres and their number.
        """
        normalised = F.rms_norm(hidden.float(), hidden.shape[-1:])
        is_single = ~targets.boxes.isnan().any(-1)
        single, boxes, attributes = normalised[is_single], targets.boxes[is_single], targets.attributes[is_single]
        bins = self.coordinates(single).float().view(-1, 4, NUM_BINS)
        soft = soft_bins((boxes * 100).floor(), bin_width)
        maps = self.centres(normalised).float()
        name, colour, size, pattern = (head(single).float() for head in self.attributes)
        classes = (*without_unseen(name, colour, attributes[:, 0], attributes[:, 1]), size, pattern)
        counts = self.count(normalised).float()
        # Sums, as a mean over no mention would be NaN.
        loss = -(soft * bins.log_softmax(-1)).sum() / (4 * is_single.sum().clamp(min=1))
        loss = loss + sum(
            F.cross_entropy(scores, labels, reduction="sum") / is_single.sum().clamp(min=1)
            for scores, labels in zip(classes, attributes.T, strict=True)
        )
        map_loss = F.binary_cross_entropy_with_logits(maps, targets.centres, reduction="sum") / max(1, len(maps))
        is_phrase = targets.counts >= 0
        count_loss = F.cross_entropy(counts, targets.counts, reduction="sum") / is_phrase.sum().clamp(min=1)
        loss = loss + set_weight * (0.2 * map_loss + count_loss)
        with torch.no_grad():
            report = {
                "mention_iou": iou((bins.argmax(-1).float() + 0.5) / 100, boxes).mean().item(),
                "mention_map": ((maps > 0) == (targets.centres > 0)).all(-1).float().mean().item(),
                "mention_name": (classes[0].argmax(-1) == attributes[:, 0]).float().mean().item(),
                "mention_count": (counts.argmax(-1) == targets.counts)[is_phrase].float().mean().item(),
            }
        return loss, report


class TrainingHeads(nn.Module):
    """All read-outs that exist during training only."""

    def __init__(self, tower_width: int, decoder_width: int, num_patches: int) -> None:
        super().__init__()
        self.dense = PatchHeads(tower_width)  # under this name in the saved states of the stages
        self.mention = MentionHead(decoder_width, num_patches)
