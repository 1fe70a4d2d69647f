"""The bundled checkpoints as they ship: small, and answering about scenes that nobody trained on.

How well exactly is in docs/measurements.md; here a broken or exchanged file is to be noticed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from engine.chat_engine import ChatEngine
from models.loader import load_model
from tests.paths import ROOT
from training.evaluation.low_resolution import leave_out_mining
from training.evaluation.scene_accuracy import ask_scenes, engine_answerer, measure_experts, score

CONFIGS = sorted((ROOT / "eval_configs").glob("tiny_*.yaml"))
FAMILIES = ("mini_gemini", "minigpt4", "minigpt_v2", "moe_llava", "tinygpt_v")
MOST_BYTES = 8_000_000
SCENES = 24


def test_every_family_has_one() -> None:
    found = {yaml.safe_load(path.read_text(encoding="utf-8"))["family"] for path in CONFIGS}
    assert found == set(FAMILIES)


@pytest.mark.parametrize("folder", sorted((ROOT / "checkpoints").glob("tiny_*")), ids=lambda path: path.name)
def test_they_are_small(folder: Path) -> None:
    assert 0 < sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MOST_BYTES


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_they_answer(path: Path) -> None:
    """Far below the figures of docs/measurements.md, of many more scenes; far above what a wrong file would give."""
    model = load_model(path, device="cpu", report=None)
    boxes = any(task.gives_boxes for task in model.info.tasks)
    with ChatEngine(model) as engine:
        answer_all = engine_answerer(engine)
        for task in ("caption", "colour", "refer") if boxes else ("caption", "colour"):
            asked = ask_scenes(task, SCENES, seed=11, boxes=boxes)
            figure = next(iter(score(task, [sample for _, sample in asked], answer_all(asked)).values()))
            assert figure >= 0.8, (task, figure)


def test_no_expert_is_idle_or_does_it_all() -> None:
    model = load_model(ROOT / "eval_configs" / "tiny_moe_llava.yaml", device="cpu", report=None)
    with ChatEngine(model) as engine:
        shares = measure_experts(engine, engine_answerer(engine), boxes=False, scenes=SCENES, seed=11)
    assert shares["expert_share_least"] >= 0.05
    assert shares["expert_share_most"] <= 0.6


def test_mini_gemini_reads_with_its_high_resolution_tower() -> None:
    model = load_model(ROOT / "eval_configs" / "tiny_mini_gemini.yaml", device="cpu", report=None)
    asked = ask_scenes("reading", 60, seed=11, boxes=False)

    def accuracy() -> float:
        with ChatEngine(model) as engine:
            return score("reading", [sample for _, sample in asked], engine_answerer(engine)(asked))["reading"]

    with_it = accuracy()
    leave_out_mining(model.connector)
    assert with_it >= accuracy() + 0.05
