"""Prompts that are read in C give what the model gives, however they are cut and whoever else is there."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks import random_models
from engine.native.native_step import NativeStep
from engine.native.prompt_pieces import Piece, ReadChat, pieces
from tests.engine.native.helpers import SIZE, each_kind, each_shrunk, error, made, need_compiled_code

compiled = need_compiled_code
KNOWN, NEW = (0, 9, 300, 4), (70, 1, 5, 30)  # tokens of four chats that are in pages already, and those that are read
ROWS = 600


class Chats:
    """Four chats: ids, where their tokens are in the pages, in no order, and what the pages hold of the known ones."""

    def __init__(self, model: PreTrainedModel, order: Sequence[int] = range(4)) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model, config = model, model.config
        heads = 1 if config.model_type == "gemma" else config.num_key_value_heads
        self.heads, self.width = heads, model.model.layers[0].self_attn.head_dim
        shape = (2 * config.num_hidden_layers, ROWS, heads * self.width)
        self.pages = torch.randn(shape, generator=generator).to(model.dtype)
        rows = torch.randperm(ROWS, generator=generator)
        own = [rows[100 * 0 : 70], rows[70:80], rows[80:385], rows[385:419]]
        ids = [torch.randint(3, SIZE.vocabulary, (new,), generator=generator).tolist() for new in NEW]
        self.rows, self.ids = [own[chat] for chat in order], [ids[chat] for chat in order]
        self.known = [KNOWN[chat] for chat in order]

    def read(self, step: NativeStep, pieces_of: int | None = None) -> tuple[Tensor, Tensor]:
        """The logits of each chat's last token [chats, V], and of each token whether it is broken."""
        chats: list[ReadChat] = []
        ids: list[int] = []
        positions: list[int] = []
        kept: list[int] = []
        key = 0
        for own, known, rows in zip(self.ids, self.known, self.rows, strict=True):
            chats.append(ReadChat(len(ids), len(ids) + len(own), key, len(rows)))
            ids += own
            positions += range(known, len(rows))
            kept.append(len(ids) - 1)
            key += len(rows)
        pages = (ctypes.c_void_p * len(self.pages))(*(side.data_ptr() for side in self.pages))
        logits, broken, is_bf16 = torch.empty(len(kept), step.num_outputs), [], self.pages.dtype == torch.bfloat16
        for piece, places in pieces(ids, positions, chats, kept, most=pieces_of or 256):
            found = step.read(piece, torch.cat(self.rows), pages, is_bf16=is_bf16)
            logits[places] = found.logits
            broken.append(found.are_broken)
        return logits, torch.cat(broken)

    def past(self, chat: int) -> DynamicCache:
        found, rows = DynamicCache(), self.rows[chat][: self.known[chat]]
        for layer in range(len(self.pages) // 2 if len(rows) else 0):
            sides = (self.pages[2 * layer + side][rows].unflatten(1, (self.heads, self.width)) for side in range(2))
            found.update(*(side.transpose(0, 1).unsqueeze(0) for side in sides), layer)
        return found

    def expected(self) -> Tensor:
        """The model's own logits, one chat after the other."""
        found = []
        for chat, (own, known) in enumerate(zip(self.ids, self.known, strict=True)):
            positions = torch.arange(known, known + len(own)).unsqueeze(0)
            given: dict[str, Any] = {"input_ids": torch.tensor([own]), "position_ids": positions}
            output = self.model(**given, past_key_values=self.past(chat), use_cache=True)
            found.append(output.logits[0, -1].float())
        return torch.stack(found)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", random_models.BACKBONES)
@torch.inference_mode()
def test_every_backbone(backbone: str, kind: str) -> None:
    model = made(backbone, kind)
    chats = Chats(model)
    wanted = chats.expected()
    assert error(chats.read(NativeStep(model))[0], wanted) < (1e-5 if kind == "float32" else 0.06)


@each_shrunk
@torch.inference_mode()
def test_weights_of_8_and_4_bits(kind: str) -> None:
    model = made("phi", kind)
    chats = Chats(model)
    wanted = chats.expected()
    assert error(chats.read(NativeStep(model))[0], wanted) < 0.05


@each_kind
@torch.inference_mode()
def test_neither_company_nor_cuts_change_a_bit(kind: str) -> None:
    model = made("sparse_qwen2", kind)
    step = NativeStep(model)
    found, _ = Chats(model).read(step)
    assert torch.equal(Chats(model).read(step, pieces_of=17)[0], found)
    for chat in range(4):
        assert torch.equal(Chats(model, [chat]).read(step)[0][0], found[chat])


@torch.inference_mode()
def test_keys_and_values_are_written() -> None:
    model = made()
    chats = Chats(model, [2])
    past, own = chats.past(0), chats.ids[0]
    model(input_ids=torch.tensor([own]), position_ids=torch.arange(300, 305).unsqueeze(0), past_key_values=past)
    before = chats.pages.clone()
    chats.read(NativeStep(model))
    new = chats.rows[0][300:]
    for layer, side in ((layer, side) for layer in range(len(chats.pages) // 2) for side in range(2)):
        mine: Any = past.layers[layer]
        wanted = (mine.keys, mine.values)[side][0, :, 300:].transpose(0, 1).flatten(1)
        torch.testing.assert_close(chats.pages[2 * layer + side][new], wanted, rtol=1e-4, atol=1e-5)
    others = torch.ones(ROWS, dtype=torch.bool).index_fill_(0, new, False)
    assert torch.equal(chats.pages[:, others], before[:, others])


@torch.inference_mode()
def test_the_number_of_threads_makes_no_difference() -> None:
    large = dataclasses.replace(SIZE, hidden=512, inner=1024, layers=1)  # worth several threads
    model = random_models.random_model("llama", large, context_tokens=64).language_model.eval()
    step, before, found = NativeStep(model), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(Chats(model).read(step)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@each_kind
@torch.inference_mode()
def test_numbers_that_are_none_stay_with_their_chat(kind: str, number: float) -> None:
    model: Any = made("mixtral", kind)
    step, chats = NativeStep(model), Chats(model)
    wanted, broken = Chats(model).read(step)
    assert not broken.any()
    model.get_input_embeddings().weight[5] = number
    chats.ids[2][1] = 5
    for own in (chats.ids[0], chats.ids[1], chats.ids[3]):
        assert 5 not in own
    found, broken = chats.read(step)
    assert broken.nonzero().flatten().tolist() == [NEW[0] + NEW[1] + 1]  # who has the number, in the chat of number 2
    assert torch.equal(found[[0, 1, 3]], wanted[[0, 1, 3]])
    assert chats.pages.isfinite().all()


@torch.inference_mode()
def test_ids_of_pictures_are_embedded_by_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made()
    step, chats = NativeStep(model), Chats(model)
    wanted, _ = Chats(model).read(step)
    embed: Any = model.get_input_embeddings()
    token, chats.ids[0][3] = chats.ids[0][3], SIZE.vocabulary + 8

    def with_picture(ids: Tensor) -> Any:
        return embed(ids.clone().masked_fill_(ids > SIZE.vocabulary, token))

    monkeypatch.setattr(model, "get_input_embeddings", lambda: with_picture)
    assert torch.equal(chats.read(step)[0], wanted)


def test_a_step_in_pieces() -> None:
    ids, chats = list(range(100, 110)), [ReadChat(0, 7, 0, 9), ReadChat(7, 10, 9, 3)]
    first, second, third = pieces(ids, ids, chats, [6, 9], most=4)
    assert first == (Piece(ids[:4], ids[:4], [(0, 4, 0, 6)], []), [])
    assert second == (Piece(ids[4:8], ids[4:8], [(0, 3, 0, 9), (3, 1, 9, 1)], [2]), [0])
    assert third == (Piece(ids[8:], ids[8:], [(0, 2, 9, 3)], [1]), [1])
