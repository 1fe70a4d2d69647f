"""Pairs of shape and colour that training never shows: no loss counts against them either."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.formats.minigpt import MINIGPT_V2
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from tests.paths import ROOT
from training.scenes import world as vocab
from training.scenes.question_makers import MAKERS
from training.scenes.samples import Sample, unseen_answers
from training.scenes.scene import sample_scene
from training.scenes.task_mixtures import MINIGPT_V2_MIXTURE
from training.tiny.families.minigpt_v2 import LANGUAGE_MODEL
from training.tiny.language_batches import LanguageRecipe, language_batches
from training.tiny.mention_supervision import TrainingHeads
from training.tiny.networks import (
    PATCH_GRID,
    DecoderShape,
    TinyModel,
    TowerShape,
    build_decoder,
    build_merge_connector,
    build_vision_tower,
)
from training.tiny.patch_supervision import NAMES, UNSEEN, without_unseen
from training.tiny.token_rows import RowFormat
from training.tiny.tokenizer import COORDINATES
from training.tiny.train_language import LanguageStage

BUNDLED = ROOT / "checkpoints" / "tiny_minigpt_v2"
PAIRS = {f"{colour} {name}" for name, colour in vocab.HELD_OUT}
NAMING_TASKS = ("identify", "colour", "shape", "grounding", "caption")
TOWER = TowerShape(width=32, layers=1, heads=2, mlp_width=64)
DECODER = DecoderShape(width=32, layers=3, heads=2, mlp_width=64)


@pytest.fixture(scope="module")
def row_format() -> RowFormat:
    tokenizer = SentencePieceTokenizer(BUNDLED / LANGUAGE_MODEL / "tokenizer.model")
    return RowFormat(prompt_format=MINIGPT_V2, tokenizer=tokenizer, answer_end="</s>")


def samples(task: str) -> list[Sample]:
    rng = np.random.default_rng(5)
    made = [MAKERS[task](rng, sample_scene(rng)) for _ in range(40)]
    return [sample for sample in made if sample is not None]


@pytest.mark.parametrize("task", NAMING_TASKS)
def test_unseen_answers_name_what_training_never_shows(task: str) -> None:
    found = [(sample, other) for sample in samples(task) for other in unseen_answers(sample)]
    assert len(found) >= 10
    for sample, other in found:
        if task in ("colour", "shape"):  # the question has the other word
            (item,) = sample.items
            pair = (item.name, other) if task == "colour" else (other, item.colour)
            assert pair in vocab.HELD_OUT
        else:
            assert any(pair in other for pair in PAIRS)
            assert not any(pair in sample.answer for pair in PAIRS)


@pytest.mark.parametrize("task", ["refer", "detection", "count", "relation", "existence", "reading"])
def test_answers_that_name_nothing_have_no_unseen_ones(task: str) -> None:
    assert not any(unseen_answers(sample) for sample in samples(task))


@pytest.mark.parametrize("task", NAMING_TASKS)
def test_ids_beside_an_answer_begin_an_unseen_name(row_format: RowFormat, task: str) -> None:
    for sample in samples(task):
        row = row_format.row([sample])
        spared = [(index, other) for index, other in enumerate(row.unseen) if other >= 0]
        assert len(row.unseen) == len(row.answer)
        assert len(spared) == len(unseen_answers(sample))
        for index, other in spared:
            begun = row_format.tokenizer.decode([*row.answer[:index], other]).strip()
            assert any(answer.startswith(begun) for answer in unseen_answers(sample))
            assert other != row.answer[index]


def test_read_outs_are_not_compared_with_unseen_names_and_colours() -> None:
    names, colours = torch.randn(len(NAMES), len(NAMES)), torch.randn(len(NAMES), len(vocab.COLOURS))
    name_labels, colour_labels = torch.arange(len(NAMES)), torch.arange(len(NAMES)) % len(vocab.COLOURS)
    spared_names, spared_colours = without_unseen(names, colours, name_labels, colour_labels)
    for i in range(len(NAMES)):
        left_out = spared_names[i].isinf()
        (index,) = left_out.nonzero().flatten().tolist()  # each of the eight colours is held out for one shape
        assert (NAMES[index], list(vocab.COLOURS)[int(colour_labels[i])]) in vocab.HELD_OUT
        assert torch.equal(spared_names[i][~left_out], names[i][~left_out])
        assert spared_colours[i].isinf().tolist() == UNSEEN[i].tolist()
    assert UNSEEN.sum() == len(vocab.HELD_OUT)


def test_no_gradient_says_that_an_unseen_pair_does_not_exist(row_format: RowFormat) -> None:
    torch.manual_seed(0)
    tokenizer = row_format.tokenizer
    ids = [tokenizer.encode(piece)[-1] for piece in COORDINATES]
    decoder = build_decoder(DECODER, vocabulary_size=len(tokenizer), coordinate_ids=ids)
    tower = build_vision_tower(TOWER, trains_ln_vision=False)
    model = TinyModel(tower, build_merge_connector(TOWER, DECODER), decoder, grid=PATCH_GRID)
    recipe = LanguageRecipe(steps=1, mixture=MINIGPT_V2_MIXTURE, images=2, rows=12, mention_layer=2)
    heads = TrainingHeads(TOWER.width, DECODER.width, model.num_patches)
    stage = LanguageStage(model, heads, row_format.prefix(), ids, recipe)
    scores: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        scores.append(output)

    decoder.lm_head.register_forward_hook(keep)
    batch = language_batches(recipe, row_format, PATCH_GRID)[0]["batch"]
    stage(batch).loss.backward()
    gradient = scores[0].grad
    assert gradient is not None
    assert gradient.isfinite().all()
    spared = (batch.rows.unseen >= 0).nonzero().squeeze(1)
    assert len(spared) > 0
    assert (gradient[spared, batch.rows.unseen[spared]] == 0).all()
    targets = batch.rows.targets[batch.rows.targets >= 0]
    assert (gradient[spared, targets[spared]] != 0).all()
