"""Mini-Gemini's two training stages against a recorded step of the original."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import torch
from torch import Tensor

from models.parts.dual_vision import DualVisionTower
from models.vision_language_model import IMAGE_PLACEHOLDER, VisionLanguageModel
from tests.recorded_case import Case
from training.data.minigpt_sequences import Batch
from training.families import mini_gemini
from training.stages.retrained_folder import unstack


def check_mgm_step(case: Case, kind: str, model: VisionLanguageModel) -> None:
    """The batch, the loss, and every gradient norm; experts, which are stacked here, one by one as recorded."""
    step, stage = case.step(kind), mini_gemini.STAGES[kind.removeprefix("stage")]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(stage.trains(name))
    batch = step.make_batch(model)
    check_batch(case, kind, model, batch)
    loss = model(**vars(batch)).loss
    loss.backward()
    assert loss.item() == pytest.approx(step.loss, abs=1e-5)
    norms = {name: tensor.norm().item() for name, tensor in released_gradients(model, step.gradient_norms).items()}
    assert norms.keys() == step.gradient_norms.keys()
    for name, norm in norms.items():
        noise = 1e-6 if name in step.zero_by_symmetry else 1e-7
        assert norm == pytest.approx(step.gradient_norms[name], rel=1e-4, abs=noise), name


def check_batch(case: Case, kind: str, model: VisionLanguageModel, batch: Batch) -> None:
    """Ids and labels as the reference had them before it put image tokens in; the pictures at low resolution.

    The reference's pictures are [B, 3, s, s], or [B, V, 3, s, s] for the V views of HD models.
    """
    prefix = "train" if kind == "stage2" else "train_stage1"
    ids, labels = case.expected[f"{prefix}.input_ids"], case.expected[f"{prefix}.labels"]
    for row in range(len(ids)):
        is_image = batch.input_ids[row] == IMAGE_PLACEHOLDER
        is_first = is_image & ~is_image.roll(1)
        seen = (batch.attention_mask[row] == 1) & (~is_image | is_first)
        recorded = case.expected[f"{prefix}.attention_mask"][row].bool()
        assert batch.input_ids[row][seen].masked_fill(is_first[seen], -200).tolist() == ids[row][recorded].tolist()
        assert batch.labels[row][seen].tolist() == labels[row][recorded].tolist()
    assert isinstance(model.vision_tower, DualVisionTower)
    assert batch.pixel_values is not None
    low_views = model.vision_tower.low_views(batch.pixel_values)  # [B, V, 3, s, s]
    recorded = case.expected[f"{prefix}.images"]
    assert recorded.shape in (low_views.shape, low_views.flatten(0, 1).shape)
    torch.testing.assert_close(low_views, recorded.view_as(low_views), atol=1e-6, rtol=0)


def released_gradients(model: VisionLanguageModel, recorded: Collection[str]) -> dict[str, Tensor]:
    """The gradient of everything that learns, by released name, in the form of the `recorded` names; else zero."""
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    separate = unstack(gradients, dict.fromkeys(recorded))
    return {mini_gemini.released_name(name): gradient for name, gradient in separate.items()}
