"""The tiny models' stages on transformers' Trainer: the steps of a plain loop, and nothing lost to a kill."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import Tensor, nn

import training.tiny.tiny_trainer
import training.tiny.train_language
from models.errors import ConfigError
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from tests.training.runs import StopAt, Stopped
from tests.training.tiny.small_networks import (
    LANGUAGE_RECIPE,
    STEPS,
    TOKENIZER,
    Case,
    answering,
    rows_of,
    seeing,
    shown,
    tiny_model,
)
from training.tiny.mention_supervision import TrainingHeads
from training.tiny.muon import Muon
from training.tiny.optimiser import LearningRates, MuonWithAdamW, build_optimiser, rate_factor
from training.tiny.patch_supervision import PatchHeads
from training.tiny.pretrain_tower import TowerRecipe, pretrain_tower
from training.tiny.tiny_trainer import PARTS, SceneBatches, moved, run_steps
from training.tiny.tokenizer import COORDINATES
from training.tiny.train_language import train_language

# Warned of by the libraries themselves, whatever is trained.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight"),  # autocast leaves RMSNorm alone
]


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(TOKENIZER)


CASES = pytest.mark.parametrize("make", [seeing, answering])
Maker = Callable[[SentencePieceTokenizer], Case]


def test_one_optimiser_is_saved_whole() -> None:
    torch.manual_seed(0)
    layers = [nn.ModuleDict({"layers": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))}) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    first, second = (build_optimiser([(nn.Sequential(m), 1.0)], LearningRates(muon=0.1, adamw=0.1)) for m in layers)
    assert [len(group["params"]) for group in first.param_groups] == [2, 2]

    def step(module: nn.Module, optimiser: MuonWithAdamW, scale: float) -> None:
        for parameter in module.parameters():
            parameter.grad = scale * (parameter.detach() + 1)
        optimiser.step()

    step(layers[0], first, 1.0)
    layers[1].load_state_dict(layers[0].state_dict())
    state = deepcopy(first.state_dict())
    assert len(state["state"]) == 4
    second.load_state_dict(state)
    for group in second.param_groups:
        group["lr"] *= 0.5  # reaches both, as a schedule must
    for group in first.param_groups:
        group["lr"] *= 0.5
    for module, optimiser in zip(layers, (first, second), strict=True):
        step(module, optimiser, -2.0)
    for ours, theirs in zip(*(module.parameters() for module in layers), strict=True):
        assert torch.equal(ours, theirs)


def test_rates_rise_stay_and_fall() -> None:
    factor = rate_factor(1000, 0.5)
    assert [factor(step) for step in (0, 10, 19, 500, 750, 1000)] == pytest.approx([0.05, 0.55, 1.0, 1.0, 0.5, 0.0])


@CASES
def test_the_steps_are_those_of_a_plain_loop(make: Maker, tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    """Bit for bit: Muon and AdamW apart, rates set by hand, bfloat16 products, no clipping."""
    case = make(tokenizer)
    case.run(tmp_path)
    plain = make(tokenizer)
    groups = [
        {key: group[key] for key in ("params", "lr")} | {"peak": group["lr"], "num_fused": group.get("num_fused")}
        for group in plain.optimiser.param_groups
    ]
    optimisers: list[torch.optim.Optimizer] = [
        Muon([group for group in groups if group["num_fused"]], lr=0.0),
        torch.optim.AdamW([group for group in groups if not group["num_fused"]], betas=(0.9, 0.98), weight_decay=0.0),
    ]
    losses = []
    for step in range(STEPS):
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                progress = step / STEPS
                scale = min(1.0, (progress + 1e-3) / 0.02, (1 - progress) / (1 - plain.decay_from))
                group["lr"] = group["peak"] * scale
        losses.append(0.0)
        for part in range(PARTS):
            batch = plain.batches[step * PARTS + part]["batch"]  # pictures are blurred in full precision
            with torch.autocast("cpu", torch.bfloat16):
                loss = plain.stage(batch)[0] / PARTS
            loss.backward()
            losses[-1] += loss.item()
        for optimiser in optimisers:
            optimiser.step()
    assert [value for _, value in shown(tmp_path)] == pytest.approx(losses, rel=1e-6)  # summed in fp32 there
    for (name, ours), theirs in zip(case.stage.named_parameters(), plain.stage.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@CASES
def test_a_killed_run_has_the_losses_it_would_have_had(
    make: Maker, tokenizer: SentencePieceTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.tiny.tiny_trainer, "_SAVE_EVERY", 2)
    whole = make(tokenizer)
    whole.run(tmp_path / "whole")
    killed_at(5, monkeypatch)
    with pytest.raises(Stopped):
        make(tokenizer).run(tmp_path / "killed")
    monkeypatch.setattr(training.tiny.tiny_trainer, "TinyTrainer", TinyTrainer)
    again = make(tokenizer)
    with torch.no_grad():
        for parameter in again.stage.parameters():
            if parameter.requires_grad:
                parameter.zero_()  # all comes from the checkpoint
    again.run(tmp_path / "killed")
    assert shown(tmp_path / "killed") == shown(tmp_path / "whole")
    for (name, ours), theirs in zip(again.stage.named_parameters(), whole.stage.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


TinyTrainer = training.tiny.tiny_trainer.TinyTrainer


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs die in the middle of a step."""

    def doomed(*args: Any, callbacks: list[Any], **kwargs: Any) -> Any:
        return TinyTrainer(*args, callbacks=[*callbacks, StopAt(step)], **kwargs)

    monkeypatch.setattr(training.tiny.tiny_trainer, "TinyTrainer", doomed)


def test_what_is_reported_is_a_mean_over_the_steps_that_had_it(tmp_path: Path) -> None:
    values = [1.0, 2.0, float("nan"), 4.0]

    class Stage(nn.Linear):
        def forward(self, batch: int) -> tuple[Tensor, dict[str, float]]:  # type: ignore[override]
            return self.weight.sum(), {"figure": values[batch], "never": float("nan")}

    stage = Stage(1, 1)
    batches = SceneBatches(lambda _, progress: round(progress * 4), steps=4, seed=0)
    optimiser = build_optimiser([(stage, 1.0)], LearningRates(muon=0.1, adamw=0.1))
    run_steps(stage, batches, optimiser, decay_from=0.5, folder=tmp_path, log_every=4)
    assert shown(tmp_path, "train/figure") == [(1, 1.0), (4, 3.0)]
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert "train/never" not in events.Tags()["scalars"]


def test_a_finished_stage_is_not_repeated(
    tokenizer: SentencePieceTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was killed after its last step, before the file was written."""
    ids = [tokenizer.encode(piece)[-1] for piece in COORDINATES]
    recipe = replace(LANGUAGE_RECIPE, steps=2)

    def train() -> dict[str, Any]:
        model = tiny_model(tokenizer)
        torch.manual_seed(1)
        heads = TrainingHeads(32, 32, model.num_patches)
        train_language(model, heads, rows_of(tokenizer), ids, recipe, tmp_path / "state.pt")
        return {**model.state_dict(), **heads.state_dict()}

    whole = train()
    killed_at(1, monkeypatch)  # whoever begins a step now dies
    taken = train()
    (tmp_path / "state.pt").unlink()
    for again in (taken, train()):
        for name, tensor in again.items():
            assert torch.equal(tensor, whole[name]), name


def test_a_step_has_two_halves_and_no_more(
    tokenizer: SentencePieceTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = answering(tokenizer)
    first, second = (case.batches[index]["batch"] for index in range(PARTS))
    assert not torch.equal(first.pixel_values, second.pixel_values)
    monkeypatch.setattr(
        training.tiny.tiny_trainer, "PartialState", lambda cpu: SimpleNamespace(num_processes=3, cpu=cpu)
    )
    with pytest.raises(ConfigError, match="2 processes at most"):
        case.run(tmp_path)


@CASES
def test_all_tensors_of_a_batch_go_to_the_device(make: Maker, tokenizer: SentencePieceTokenizer) -> None:
    def tensors(value: Any) -> list[Tensor]:
        if isinstance(value, Tensor):
            return [value]
        parts = value if isinstance(value, list | tuple) else vars(value).values() if is_dataclass(value) else ()
        return [tensor for part in parts for tensor in tensors(part)]

    batch = make(tokenizer).batches[0]["batch"]
    there = moved(batch, torch.device("meta"))
    assert len(tensors(there)) == len(tensors(batch)) > 10
    assert {tensor.device.type for tensor in tensors(there)} == {"meta"}


def test_a_tower_is_saved_with_what_it_sees_through(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    model = tiny_model(tokenizer)
    pretrain_tower(model, PatchHeads(32), TowerRecipe(steps=1, batch=2), tmp_path / "tower.pt")
    saved = torch.load(tmp_path / "tower.pt", weights_only=True)
    assert {name.partition(".")[0] for name in saved["model"]} == {"vision_tower", "connector"}
    biases = [tensor for name, tensor in saved["model"].items() if name.endswith("qkv.bias")]
    assert all(bias.chunk(3)[1].abs().max() < 1e-2 for bias in biases)  # no key bias in EVA: the file drops it
