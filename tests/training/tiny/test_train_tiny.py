"""The whole recipe in miniature: every stage runs, and what it exports loads and answers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.conversation import Turn
from models.loader import load_model
from models.parts.dual_vision import DualVisionTower
from models.parts.llava_vision import CutClip
from models.parts.sparse_decoders import SparseDecoder
from tests.paths import ROOT
from training.evaluation.low_resolution import leave_out_mining
from training.scenes import draw_scene
from training.scenes.scene import sample_scene
from training.scenes.world import IMAGE_SIZE
from training.stages.upcycling import upcycle_folder
from training.tiny.byte_tokenizer import train_byte_tokenizer
from training.tiny.clip_tower import clip_config, clip_from_eva
from training.tiny.families import mini_gemini, minigpt4, minigpt_v2, moe_llava, tinygpt_v
from training.tiny.images import pixel_values_of
from training.tiny.language_batches import LanguageRecipe
from training.tiny.networks import PATCH_SIZE, DecoderShape, QFormerShape, TowerShape, build_vision_tower
from training.tiny.pretrain_tower import TowerRecipe
from training.tiny.train_tiny import FAMILIES, folder_of, main

TOKENIZER = ROOT / "checkpoints" / "tiny_minigpt_v2" / "llama" / "tokenizer.model"
TOWER = TowerShape(width=32, layers=1, heads=1, mlp_width=32)
DECODER = DecoderShape(width=32, layers=3, heads=1, mlp_width=32)
QFORMER = QFormerShape(width=32, layers=1, heads=1, mlp_width=32)
_SIZES = "hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 32"
_EVA, _QFORMER = f"vision_config={{{_SIZES}, patch_size: 12}}", f"qformer_config={{{_SIZES}}}"
_CLIP = f"vision_config={{{_SIZES.replace('layers: 1', 'layers: 2')}, image_size: 48, patch_size: 4, hidden_act: gelu}}"
_CLIP_144 = _CLIP.replace("image_size: 48, patch_size: 4", "image_size: 144, patch_size: 12")
OVERRIDES = {
    "minigpt_v2": (_EVA,),
    "minigpt4": (_EVA, _QFORMER),
    "tinygpt_v": (_EVA, _QFORMER),
    "tinygpt_v_stage3": (_EVA, _QFORMER),
    "moe_llava": (_CLIP_144,),
    "mini_gemini": (_CLIP,),
}


def copy_config(name: str, folder: Path) -> Path:
    """The YAML of a tiny model, copied beside the files that it names."""
    return Path(shutil.copy(ROOT / "eval_configs" / f"tiny_{name}.yaml", folder))


def shortened(recipe: TowerRecipe | LanguageRecipe) -> TowerRecipe | LanguageRecipe:
    if isinstance(recipe, LanguageRecipe):
        return replace(recipe, steps=1, images=2, rows=3)
    return replace(recipe, steps=2, batch=2)


@pytest.fixture
def small_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (minigpt4, minigpt_v2, tinygpt_v, moe_llava):
        monkeypatch.setattr(module, "TOWER", TOWER)
    for module in (minigpt4, tinygpt_v):
        monkeypatch.setattr(module, "QFORMER", QFORMER)
    for module in (minigpt4, minigpt_v2, tinygpt_v, moe_llava, mini_gemini):
        monkeypatch.setattr(module, "DECODER", DECODER)
    monkeypatch.setattr(mini_gemini, "LOW", TOWER)
    monkeypatch.setattr(mini_gemini, "HIGH_WIDTHS", (4, 8, 8, 8))
    monkeypatch.setattr(minigpt_v2, "STAGES", {name: shortened(recipe) for name, recipe in minigpt_v2.STAGES.items()})
    monkeypatch.setattr(minigpt4, "QUERY_RECIPES", tuple(map(shortened, minigpt4.QUERY_RECIPES)))
    monkeypatch.setattr(mini_gemini, "_FITTED_BATCHES", 2)
    for module, names in (
        (minigpt_v2, ("REFINED",)),
        (minigpt4, ("MINIGPT4",)),
        (tinygpt_v, ("STAGE_4", "STAGE_3")),
        (moe_llava, ("TOWER_RECIPE", "DENSE", "SPARSE")),
        (mini_gemini, ("HIGH_RECIPE", "TOWERS_RECIPE", "RECIPE")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, shortened(getattr(module, name)))


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # autocast leaves RMSNorm weights alone
def test_all_families(small_recipes: None, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(TOKENIZER, work)
    train_byte_tokenizer(work / "phi_tokenizer", num_scenes=200)
    for family, train in FAMILIES.items():
        train(work, tmp_path)(tmp_path / folder_of(family))
    for name, overrides in OVERRIDES.items():
        path = copy_config(name, tmp_path)
        model = load_model(path, device="cpu", overrides=overrides, report=None)
        prompt = model.embed_prompt([Turn("user", "what do you see?", (draw_scene(1),))])
        assert prompt.isfinite().all()


def test_an_exported_mini_gemini_sees_what_was_trained(small_recipes: None, tmp_path: Path) -> None:
    family = mini_gemini.MiniGemini(tmp_path, TOKENIZER)
    model, _ = family.build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=parameter.detach().mean().item(), std=0.05)
    family.export(model, tmp_path / "tiny_mini_gemini")
    path = copy_config("mini_gemini", tmp_path)
    loaded = load_model(path, device="cpu", overrides=(_CLIP,), report=None)
    assert isinstance(loaded.vision_tower, DualVisionTower)
    pixel_values = loaded.pixel_values([draw_scene(1)])
    with torch.no_grad():
        expected, mined = model.look(pixel_values)
        torch.testing.assert_close(loaded.image_embeds(pixel_values), expected, atol=2e-3, rtol=1e-2)  # fp16 files
        leave_out_mining(model.connector)
        without = model.look(pixel_values)[1]
        torch.testing.assert_close(without, model.vision_tower.features(pixel_values).low[:, 0])  # type: ignore[operator]
    assert (mined - without).abs().max() > 0.01


def test_clip_begins_as_the_tower_that_it_is_made_from() -> None:
    torch.manual_seed(0)
    eva = build_vision_tower(TowerShape(), trains_ln_vision=False)
    for parameter in eva.parameters():
        torch.nn.init.normal_(parameter, mean=parameter.detach().mean().item(), std=0.05)
    torch.nn.init.ones_(eva.post_layernorm.weight)
    torch.nn.init.zeros_(eva.post_layernorm.bias)
    clip = CutClip(clip_config(TowerShape(), image_size=IMAGE_SIZE, patch_size=PATCH_SIZE))
    clip.load_state_dict(clip_from_eva(eva, patch_size=PATCH_SIZE))
    pixel_values = pixel_values_of([sample_scene(np.random.default_rng(seed)) for seed in range(4)])
    with torch.no_grad():
        likeness = torch.cosine_similarity(
            eva.features(pixel_values), clip(pixel_values=pixel_values).last_hidden_state, dim=-1
        )
    assert likeness.min() > 0.98


def test_experts_start_as_the_feed_forward_that_they_replace(small_recipes: None, tmp_path: Path) -> None:
    family = moe_llava.MoELlava(tmp_path, TOKENIZER)
    dense, _ = family.build()
    family.export(dense, tmp_path / "dense")
    upcycle_folder(tmp_path / "dense", tmp_path / "sparse")
    sparse = moe_llava.sparse_model(tmp_path / "sparse")
    assert isinstance(sparse.language_model, SparseDecoder)
    assert list(sparse.language_model.sparse_layers) == [0, 2]
    ids = torch.arange(10, 20)[None]
    with torch.no_grad():
        expected = dense.eval().language_model(input_ids=ids).logits
        torch.testing.assert_close(sparse.eval().language_model(input_ids=ids).logits, expected, atol=2e-3, rtol=1e-2)
        merged = mini_gemini.dense_state(sparse.language_model)  # the way back, which Mini-Gemini's decoder takes
    assert merged.keys() == dense.language_model.state_dict().keys()
    for name, tensor in dense.language_model.state_dict().items():
        torch.testing.assert_close(merged[name], tensor, atol=1e-3, rtol=1e-3, msg=name)
    trained = {name for name, parameter in sparse.named_parameters() if parameter.requires_grad}
    assert all(".mlp." in name or name.startswith("connector.") for name in trained)


@pytest.mark.parametrize(
    ("family", "before"),
    [("minigpt4", "tiny_minigpt_v2"), ("tinygpt_v", "tiny_minigpt4"), ("mini_gemini", "tiny_moe_llava")],
)
def test_a_family_needs_the_one_before_it(
    family: str, before: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tmp_path / "tiny_minigpt_v2" / "llama" / "tokenizer.model"
    tokenizer.parent.mkdir(parents=True)
    shutil.copy(TOKENIZER, tokenizer)
    shutil.copytree(ROOT / "checkpoints" / "tiny_tinygpt_v" / "phi-2", tmp_path / "work" / "phi_tokenizer")
    assert main(["--only", family, "--work-dir", str(tmp_path / "work"), "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(tmp_path / before) in error
    assert len(error.splitlines()) == 1
