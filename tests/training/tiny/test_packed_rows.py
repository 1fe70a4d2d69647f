"""Rows of all lengths in one run of the decoder: each sees its scene and itself, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.tokenizers.sentencepiece import SentencePieceTokenizer
from tests.training.tiny.small_networks import TOKENIZER, rows_of, stage_of, tiny_model
from training.scenes.scene import sample_scene
from training.scenes.small_talk import small_talk
from training.scenes.task_mixtures import MINIGPT_V2_MIXTURE
from training.tiny.images import pixel_values_of
from training.tiny.language_batches import pack_rows
from training.tiny.mention_supervision import MentionHead, mention_targets
from training.tiny.networks import PATCH_GRID


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(TOKENIZER)


@torch.no_grad()
def test_packed_rows_equal_whole_prompts(tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer)
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng) for _ in range(2)]
    embeds = model.look(pixel_values_of(scenes))[0]
    rows = rows_of(tokenizer)
    numbered = [(i, row) for i in range(2) for row in rows.draw_rows(MINIGPT_V2_MIXTURE, rng, scenes[i], 12)]
    numbered += [(-1, rows.row([small_talk(rng)], has_image=False)) for _ in range(2)]
    packed = pack_rows(numbered, MINIGPT_V2_MIXTURE, PATCH_GRID)
    assert len(packed.blocks) > 4
    embed = model.language_model.model.embed_tokens
    expected: dict[str, list[float]] = {}
    prefix = torch.tensor(rows.prefix())
    for number, row in numbered:
        ids = torch.tensor(row.prompt + row.answer)
        before = torch.cat((embed(prefix), embeds[number])) if number >= 0 else embeds.new_empty(0, embeds.shape[-1])
        logits = model.language_model(inputs_embeds=torch.cat((before, embed(ids[:-1])))[None]).logits[0]
        losses = functional.cross_entropy(logits[-len(row.answer) :], torch.tensor(row.answer), reduction="none")
        expected.setdefault(row.task, []).extend(losses.tolist())
    stage = stage_of(model, tokenizer)  # which changes how the decoder attends
    last, _ = stage.read(embeds, packed)
    is_answer = packed.targets >= 0
    logits = model.language_model.lm_head(last[is_answer])
    losses = functional.cross_entropy(logits, packed.targets[is_answer], reduction="none")
    assert len(losses) == len(packed.weights)
    found: dict[str, list[float]] = {}
    for (task, _), part in zip(packed.tasks, losses.split([count for _, count in packed.tasks]), strict=True):
        found.setdefault(task, []).extend(part.tolist())
    assert found.keys() == expected.keys()
    for task, values in found.items():
        assert sorted(values) == pytest.approx(sorted(expected[task]), abs=1e-4), task


def test_packed_mentions_stay_at_their_tokens(tokenizer: SentencePieceTokenizer) -> None:
    rng = np.random.default_rng(5)
    numbered = [(0, row) for row in rows_of(tokenizer).draw_rows(MINIGPT_V2_MIXTURE, rng, sample_scene(rng), 20)]
    packed = pack_rows(numbered, MINIGPT_V2_MIXTURE, PATCH_GRID)
    assert len(packed.mentions) == len(packed.mention_targets.counts) == sum(len(row.mentions) for _, row in numbered)
    expected = sorted((row.prompt + row.answer)[mention.index] for _, row in numbered for mention in row.mentions)
    assert sorted(packed.ids[packed.mentions].tolist()) == expected


def test_read_outs_without_any_mention_have_a_loss_all_the_same() -> None:
    """Half of a small step may have none that fits exactly one object; a mean over nothing would be NaN."""
    head = MentionHead(8, num_patches=144)
    loss, _ = head.loss(torch.empty(0, 8), mention_targets([], PATCH_GRID), bin_width=2.0, set_weight=1.0)
    assert loss.item() == 0
