"""The whole recipe in miniature: every stage runs, and what it exports loads and answers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from models.conversation import Turn
from models.loader import load_model
from training.scenes import draw_scene
from training.tiny import train_tiny
from training.tiny.networks import DecoderShape, QFormerShape, TowerShape

ROOT = Path(__file__).parents[2]
TOWER = TowerShape(width=32, layers=1, heads=1, mlp_width=32)
_SIZES = "hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 32"
SHRUNK = (f"vision_config={{{_SIZES}, patch_size: 12}}", f"qformer_config={{{_SIZES}}}")


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tiny, "TOWER", TOWER)
    monkeypatch.setattr(train_tiny, "DECODER", DecoderShape(width=32, layers=3, heads=1, mlp_width=32))
    monkeypatch.setattr(train_tiny, "QFORMER", QFormerShape(width=32, layers=1, heads=1, mlp_width=32))
    monkeypatch.setattr(train_tiny, "TOWER_RECIPE", replace(train_tiny.TOWER_RECIPE, steps=1, batch=2))


def test_all_stages(small_recipe: None, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(ROOT / "checkpoints" / "tiny_minigpt_v2" / "llama" / "tokenizer.model", work)
    workshop = train_tiny.Workshop(work)
    one, two = (replace(train_tiny.MINIGPT_V2_LEGS[0], steps=n, images=2, rows=3) for n in (1, 2))
    workshop.train_minigpt_v2((one, two))
    refined = workshop.refine_minigpt_v2(replace(train_tiny.REFINEMENT, steps=1, images=2, rows=3))
    workshop.export_minigpt_v2(refined, tmp_path / "tiny_minigpt_v2")
    minigpt4 = workshop.train_minigpt4((replace(train_tiny.MINIGPT4_LEGS[0], steps=1, images=2, rows=3),))
    workshop.export_minigpt4(minigpt4, tmp_path / "tiny_minigpt4")
    for name in ("tiny_minigpt_v2", "tiny_minigpt4"):
        path = tmp_path / f"{name}.yaml"
        shutil.copy(ROOT / "eval_configs" / path.name, path)
        overrides = SHRUNK if name == "tiny_minigpt4" else SHRUNK[:1]
        model = load_model(path, device="cpu", overrides=overrides, report=lambda _: None)
        prompt = model.embed_prompt([Turn("user", "what do you see?", (draw_scene(1),))])
        assert prompt.isfinite().all()
