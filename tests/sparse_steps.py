"""MoE-LLaVA's third training stage against a recorded step of the original."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.parts.moe_routing import Routing
from models.parts.sparse_decoders import SparseDecoder
from models.vision_language_model import VisionLanguageModel
from tests.recorded_case import Case
from training.families import moe_llava
from training.stages.sparse_export import released_language_tensors, released_projector_tensors


def check_sparse_step(case: Case, kind: str, model: VisionLanguageModel) -> None:
    """Loss with its balance term, routing with what found no place, and every gradient norm."""
    step, prefix = case.step(kind), "train.noisy" if kind == "noisy" else "train.moe"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(moe_llava.STAGES["3"].trains(name))
    model.train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0  # as recorded
    decoder = model.language_model
    assert isinstance(decoder, SparseDecoder)
    routings: dict[int, Routing] = {}
    for index, layer in decoder.sparse_layers.items():
        if kind == "noisy":
            noise = case.expected[f"train.noisy.layer{index}.gumbel"]
            layer.router.noise = lambda _, noise=noise: noise
        layer.router.register_forward_hook(lambda _m, _a, routing, n=index: routings.__setitem__(n, routing))
    output = model(**vars(step.make_batch(model)))
    output.loss.backward()
    assert output.loss.item() == pytest.approx(step.loss, abs=1e-5)
    for index, routing in routings.items():
        expected = case.expected[f"{prefix}.layer{index}.combine_weights"]
        torch.testing.assert_close(combine_weights(routing), expected, atol=1e-5, rtol=0)
        if kind != "noisy":
            record = case.training["routing"][str(index)]
            assert routing.balance_loss().item() == pytest.approx(record["l_aux"], abs=1e-5)
            assert int((routing.weights == 0).sum()) == record["assignments_dropped"]
            num_experts = routing.logits.shape[1]
            counts = routing.experts[:, 0].bincount(minlength=num_experts).tolist()
            assert counts == record["exp_counts_first_choice"]
            torch.testing.assert_close(output.logits, case.expected["train.logits"], atol=1e-4, rtol=0)
    norms = {name: gradient.norm().item() for name, gradient in released_gradients(model).items()}
    assert norms.keys() == step.gradient_norms.keys()
    assert norms == pytest.approx(step.gradient_norms, rel=1e-4, abs=1e-7)


def released_gradients(model: VisionLanguageModel) -> dict[str, Tensor]:
    """The gradient of everything that learns, by released name; zero where nothing reached it."""

    def gradients(module: nn.Module) -> dict[str, Tensor]:
        return {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    language = released_language_tensors(model.language_model, gradients(model.language_model))
    return language | released_projector_tensors(model, gradients(model.connector))


def combine_weights(routing: Routing) -> Tensor:
    """Every token's weight for every expert, [S, E], as the reference records them."""
    return torch.zeros_like(routing.logits).scatter(1, routing.experts, routing.weights)
