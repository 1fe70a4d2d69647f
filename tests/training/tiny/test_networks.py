"""The trained modules: one step runs, the shared image prefix is exact, and export gives files that load the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.conversation import Turn
from models.formats.minigpt import MINIGPT_V2
from models.loader import load_model
from models.parts.connectors import QFormerConnector
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from tests.training.tiny.small_networks import RECIPE, TOKENIZER, rows_of, stage_of, tiny_model
from training.scenes.render import render_image
from training.scenes.samples import (
    Maker,
    Sample,
    make_caption,
    make_detection,
    make_grounding,
    make_refer,
    make_story,
    object_starts,
)
from training.scenes.scene import Scene, sample_scene
from training.scenes.task_mixtures import MINIGPT_V2_LAST_MIXTURE
from training.tiny import export
from training.tiny.images import pixel_values_of
from training.tiny.language_batches import language_batches
from training.tiny.mention_supervision import MentionHead, mention_targets
from training.tiny.muon import Muon, orthogonalise
from training.tiny.networks import (
    LORA_ALPHA,
    PATCH_GRID,
    TinyModel,
)
from training.tiny.patch_supervision import centre_map, iou, patch_targets, soft_bins
from training.tiny.token_rows import Mention, RowFormat


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(TOKENIZER)


@pytest.fixture
def scene() -> Scene:
    return sample_scene(np.random.default_rng(1), min_objects=3)


VISION_YAML = "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, patch_size: 12}"


def write_yaml(folder: Path, lines: list[str]) -> Path:
    path = folder / "config.yaml"
    path.write_text("\n".join([*lines, "image_size: 144", f"vision_config: {VISION_YAML}", "dtype: float32"]) + "\n")
    return path


def test_exported_minigpt_v2_loads_with_the_same_image_tokens_and_logits(
    tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    model = tiny_model(tokenizer)
    export.export_vision_tower(model.vision_tower, tmp_path / "eva_vit_g.pth")
    export.export_stage_checkpoint(model.connector, model.language_model, tmp_path / "v2.pth")
    export.export_language_model(model.language_model, TOKENIZER, tmp_path / "llama")
    lines = ["family: minigpt_v2", f"language_model: {tmp_path / 'llama'}", f"checkpoint: {tmp_path / 'v2.pth'}"]
    path = write_yaml(tmp_path, [*lines, f"vision_tower: {tmp_path / 'eva_vit_g.pth'}", f"lora_alpha: {LORA_ALPHA}"])
    check_same(model, path)


def test_exported_minigpt4_loads_with_the_same_image_tokens_and_logits(
    tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    model = tiny_model(tokenizer, qformer=True)
    nn.init.normal_(model.get_parameter("vision_tower.post_layernorm.weight"))
    export.export_vision_tower(model.vision_tower, tmp_path / "eva_vit_g.pth")
    assert isinstance(model.connector, QFormerConnector)
    export.export_qformer(model.connector, model.vision_tower, tmp_path / "blip2.pth")
    export.export_stage_checkpoint(model.connector, model.language_model, tmp_path / "stage.pth")
    export.export_language_model(model.language_model, TOKENIZER, tmp_path / "vicuna")
    lines = ["family: minigpt4", "conversation: vicuna_v0", f"language_model: {tmp_path / 'vicuna'}"]
    lines += [f"checkpoint: {tmp_path / 'stage.pth'}", f"qformer: {tmp_path / 'blip2.pth'}", "num_query_tokens: 32"]
    lines += ["qformer_config: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}"]
    check_same(model, write_yaml(tmp_path, [*lines, f"vision_tower: {tmp_path / 'eva_vit_g.pth'}"]))


@torch.no_grad()
def check_same(model: TinyModel, path: Path) -> None:
    """Files hold fp16, so values agree to about three digits."""
    loaded = load_model(path, device="cpu", report=None)
    pixel_values = pixel_values_of([sample_scene(np.random.default_rng(1))])
    ours = model.look(pixel_values)[0]
    theirs = loaded.image_embeds(pixel_values)
    torch.testing.assert_close(theirs, ours, atol=2e-3, rtol=1e-2)
    logits = [m(inputs_embeds=ours).logits for m in (model.language_model, loaded.language_model)]
    torch.testing.assert_close(logits[1], logits[0], atol=2e-3, rtol=1e-2)


def test_a_row_is_what_a_prompt_is_at_inference(tokenizer: SentencePieceTokenizer) -> None:
    rng = np.random.default_rng(3)
    scene = sample_scene(rng)
    sample = make_caption(rng, scene)
    rows = rows_of(tokenizer)
    row = rows.row([sample])
    image = render_image(scene)
    segments = MINIGPT_V2.render([Turn("user", sample.prompt, (image,))])
    assert segments[1] is image
    assert rows.prefix() == tokenizer.encode(str(segments[0]), add_bos=True)
    assert row.prompt == tokenizer.encode(str(segments[2]))
    assert row.answer == [*tokenizer.encode(sample.answer), tokenizer.eos_token_id]


def test_mentions_point_at_the_end_of_their_phrase(tokenizer: SentencePieceTokenizer) -> None:
    item = sample_scene(np.random.default_rng(1)).objects[0]
    rows = RowFormat(prompt_format=MINIGPT_V2, tokenizer=tokenizer, answer_end="</s>")
    earlier = Sample("colour", "[vqa] what color is the star?", "red")
    sample = Sample("refer", "[refer] where is the red star ?", "{<1><2><3><4>}", (item,), (("red star", (item,)),))
    row = rows.row([earlier, sample])
    asked, announced = row.mentions
    assert asked == Mention(asked.index, (item,), is_counted=True)
    assert tokenizer.decode(row.prompt[: asked.index + 1]).endswith("the red star")
    assert announced == Mention(len(row.prompt) - 1, (item,), is_counted=False)


@pytest.mark.parametrize("make", [make_caption, make_grounding, make_detection, make_refer, make_story])
def test_every_object_of_an_answer_is_announced(tokenizer: SentencePieceTokenizer, make: Maker) -> None:
    rows = RowFormat(prompt_format=MINIGPT_V2, tokenizer=tokenizer, answer_end="</s>")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sample = make(rng, sample_scene(rng, min_objects=3))
        if sample is None:
            continue
        row = rows.row([sample])
        announced = [mention for mention in row.mentions if not mention.is_counted]
        assert [mention.items for mention in announced] == [(item,) for item in sample.items]
        ids = row.prompt + row.answer
        for (start, _), mention in zip(object_starts(sample), announced, strict=True):
            rest = tokenizer.decode(ids[mention.index + 1 :])
            assert rest.strip() == sample.answer[start:].strip()


def test_dense_labels_name_what_covers_a_patch() -> None:
    scenes = [sample_scene(np.random.default_rng(seed)) for seed in range(4)]
    targets = patch_targets(scenes, PATCH_GRID)
    assert targets.names.shape == (4, 144)
    assert targets.counts.tolist() == [len(scene.objects) for scene in scenes]
    assert (targets.names >= 0).any(dim=1).all()
    assert targets.has_centre.sum() <= sum(len(scene.objects) for scene in scenes)


def test_soft_labels_peak_at_the_true_bin() -> None:
    soft = soft_bins(torch.tensor([0.0, 40.0, 100.0]), 2.0)
    assert soft.argmax(-1).tolist() == [0, 40, 100]
    torch.testing.assert_close(soft.sum(-1), torch.ones(3))


def test_iou_of_boxes() -> None:
    a = torch.tensor([0.0, 0.0, 0.5, 0.5])
    assert iou(a, a).item() == pytest.approx(1, abs=1e-4)
    assert iou(a, a + 0.6).item() == 0


def test_orthogonalise_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 16, 48)))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_muon_updates_fused_matrices_one_by_one() -> None:
    weight = nn.Parameter(torch.zeros(12, 4))
    weight.grad = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    Muon([{"params": [weight], "num_fused": 3}], lr=1.0).step()
    for part in weight.detach().chunk(3):
        assert torch.linalg.svdvals(part).min() > 0.5


def test_the_refinement_learns_sets_of_objects(tokenizer: SentencePieceTokenizer) -> None:
    recipe = replace(RECIPE, set_weight=1.0, rows=12, mixture=MINIGPT_V2_LAST_MIXTURE)
    stage = stage_of(tiny_model(tokenizer), tokenizer, recipe)
    loss, report = stage(language_batches(recipe, rows_of(tokenizer), PATCH_GRID)[0]["batch"])
    loss.backward()
    assert loss.isfinite()
    assert 0 <= report["alike"] <= 1
    for head in (stage.heads.dense.alike, stage.heads.mention.centres):
        assert head.weight.grad is not None
        assert head.weight.grad.abs().max() > 0


def test_patches_know_how_many_objects_are_like_theirs() -> None:
    scene = next(s for s in (sample_scene(np.random.default_rng(i)) for i in range(50)) if len(s.objects) == 1)
    targets = patch_targets([scene], PATCH_GRID)
    assert set(targets.alike[targets.names >= 0].flatten().tolist()) == {1}


def test_centre_maps_mark_every_object_of_a_phrase() -> None:
    scene = sample_scene(np.random.default_rng(2))
    patches = {(int(item.centre[0] // 12), int(item.centre[1] // 12)) for item in scene.objects}
    assert centre_map(scene.objects, PATCH_GRID).sum() == len(patches)
    assert centre_map((), PATCH_GRID).sum() == 0


def test_only_phrases_of_one_object_are_asked_for_a_box(scene: Scene) -> None:
    head = MentionHead(32, 144)
    hidden = torch.randn(2, 32)
    one, several = Mention(0, scene.objects[:1], is_counted=False), Mention(0, scene.objects[:2], is_counted=False)
    targets = mention_targets([one, several], PATCH_GRID)
    assert targets.boxes.isnan().all(dim=1).tolist() == [False, True]
    loss, _ = head.loss(hidden, targets, bin_width=2.0, set_weight=0.0)
    alone, _ = head.loss(hidden[:1], mention_targets([one], PATCH_GRID), bin_width=2.0, set_weight=0.0)
    torch.testing.assert_close(loss, alone)


def test_a_phrase_that_fits_nothing_has_an_empty_map_and_the_count_zero() -> None:
    targets = mention_targets([Mention(3, (), is_counted=True)], PATCH_GRID)
    assert targets.counts.tolist() == [0]
    assert targets.centres.sum() == 0
    assert (targets.attributes < 0).all()
