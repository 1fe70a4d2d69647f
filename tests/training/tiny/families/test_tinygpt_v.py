"""The tiny TinyGPT-V: its tokenizer, its stage files, and that they load as what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.loader import load_model
from training.scenes.samples import make_grounding, make_refer
from training.scenes.scene import sample_scene
from training.tiny.byte_tokenizer import train_byte_tokenizer
from training.tiny.families import tinygpt_v
from training.tiny.families.tinygpt_v import END, TinyGPTV
from training.tiny.images import pixel_values_of
from training.tiny.language_batches import LanguageRecipe
from training.tiny.networks import DecoderShape, QFormerShape, TinyModel, TowerShape
from training.tiny.token_rows import Mention, RowFormat
from training.tiny.train_language import LanguageStage

CONFIG = """
family: tinygpt_v
conversation: minigpt_v2
language_model: {folder}/phi-2
vision_tower: {folder}/eva_vit_g.pth
qformer: {folder}/blip2_pretrained_flant5xxl.pth
checkpoint: {folder}/TinyGPT-V_for_Stage{stage}.pth
image_size: 144
num_query_tokens: 32
vision_config: {{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, patch_size: 12}}
qformer_config: {{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}}
lora_rank: 8
dtype: float32
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyGPTV:
    work = tmp_path_factory.mktemp("work")
    train_byte_tokenizer(work / "phi_tokenizer", num_scenes=300)
    return TinyGPTV(work)


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinygpt_v, "TOWER", TowerShape(width=32, layers=2, heads=2, mlp_width=64))
    monkeypatch.setattr(tinygpt_v, "QFORMER", QFormerShape(width=32, layers=2, heads=2, mlp_width=64))
    monkeypatch.setattr(tinygpt_v, "DECODER", DecoderShape(width=32, layers=3, heads=2, mlp_width=64))


def scrambled(tiny: TinyGPTV, seed: int) -> TinyModel:
    """A model in which nothing is at its initial value but what must stay zero."""
    torch.manual_seed(seed)
    model, _ = tiny.build()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, mean=parameter.detach().mean().item(), std=0.1)
    for name, parameter in model.vision_tower.named_parameters():
        if name.endswith("qkv.bias"):
            nn.init.zeros_(parameter.chunk(3)[1])  # EVA has no key bias
    return model


def test_numbers_and_the_end_are_one_piece(tiny: TinyGPTV) -> None:
    tokenizer = tiny.tokenizer
    assert tiny.number_ids == [tokenizer.encode(str(number))[0] for number in range(101)]
    for answer in ("yes", "3", "{<1><20><99><100>}", "a red ring on a plain gray background"):
        ids = tokenizer.encode(answer + END)
        assert ids[-1] == tokenizer.token_id(END)
        assert tokenizer.decode(ids) == answer + END


@pytest.mark.parametrize("stage", [3, 4])
def test_exported_stages_load_with_the_same_image_tokens_and_logits(tiny: TinyGPTV, tmp_path: Path, stage: int) -> None:
    stage_4 = scrambled(tiny, 0)
    stage_3 = scrambled(tiny, 0)
    for name, parameter in stage_3.named_parameters():
        if "lora_b" in name or "projection" in name or name.endswith("layernorm.weight"):
            nn.init.normal_(parameter, std=0.1)
    # Stage 3 shares everything that is not in its file, so nothing else may differ.
    stage_3.vision_tower.load_state_dict(stage_4.vision_tower.state_dict())
    stage_3.connector.qformer.load_state_dict(stage_4.connector.qformer.state_dict())  # type: ignore[union-attr]
    tiny.export(stage_4, stage_3, tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(folder=tmp_path, stage=stage))
    loaded = load_model(path, device="cpu", report=None)
    trained = stage_4 if stage == 4 else stage_3
    pixel_values = pixel_values_of([sample_scene(np.random.default_rng(1))])
    with torch.no_grad():
        ours = trained.look(pixel_values)[0]
        torch.testing.assert_close(loaded.image_embeds(pixel_values), ours, atol=2e-3, rtol=1e-2)  # files are fp16
        logits = [model(inputs_embeds=ours).logits for model in (loaded.language_model, trained.language_model)]
    torch.testing.assert_close(logits[0], logits[1], atol=5e-3, rtol=1e-2)


def test_only_numbers_of_boxes_have_soft_labels(tiny: TinyGPTV) -> None:
    model, heads = tiny.build()
    recipe = LanguageRecipe(steps=1, mixture=tinygpt_v.MINIGPT4_MIXTURE)
    stage = LanguageStage(model, heads, [], tiny.number_ids, recipe, opening_ids=tiny.opening_ids)
    targets = torch.tensor(tiny.tokenizer.encode("3") + tiny.tokenizer.encode("{<3>}"))
    logits = torch.zeros(len(targets), len(tiny.tokenizer))
    logits[:, tiny.number_ids[4]] = 5.0  # one off: nearly right for a coordinate, plainly wrong for a count
    losses = stage.token_losses(logits, targets, 2.0).tolist()
    assert losses[targets.tolist().index(tiny.number_ids[3], 1)] < losses[0]


@pytest.mark.parametrize("make", [make_grounding, make_refer])
def test_objects_are_announced_before_their_part_of_the_answer(tiny: TinyGPTV, make) -> None:  # type: ignore[no-untyped-def]
    rows = RowFormat(prompt_format=tinygpt_v.MINIGPT_V2, tokenizer=tiny.tokenizer, answer_end=END)
    rng = np.random.default_rng(5)
    sample = make(rng, sample_scene(rng, min_objects=3))
    row = rows.row([sample])
    announced = [mention for mention in row.mentions if not mention.is_counted]
    assert [mention.items for mention in announced] == [(item,) for item in sample.items]
    assert announced[0] == Mention(len(row.prompt) - 1, (sample.items[0],), is_counted=False)
    assert len({mention.index for mention in announced}) == len(announced)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # autocast leaves RMSNorm weights alone
def test_stage_3_trains_only_what_its_file_holds(
    tiny: TinyGPTV, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, heads = tiny.build()
    tiny.stage_4_path, tiny.stage_3_path = tmp_path / "4.pt", tmp_path / "3.pt"
    torch.save({"model": model.state_dict(), "heads": heads.state_dict()}, tiny.stage_4_path)
    recipe = LanguageRecipe(steps=1, mixture=tinygpt_v.MINIGPT4_MIXTURE, images=2, rows=2, mention_layer=2)
    monkeypatch.setattr(tinygpt_v, "STAGE_3", recipe)
    trained = tiny.train_stage_3()
    before = model.state_dict()
    changed = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    for name in changed:
        assert name.startswith("connector.projection.") or tinygpt_v.is_stage_tensor(name), name
