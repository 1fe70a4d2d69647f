"""Rows of an embedding that no piece of text belongs to are never answered (Vicuna v0: 32001 rows, 32000 pieces)."""

from __future__ import annotations

import math

import pytest
import torch

from engine.batching.request_sampler import RequestSampler
from engine.chat_engine import ChatEngine
from engine.generate import generate
from models.conversation import Sampling
from models.vision_language_model import VisionLanguageModel
from tests.tiny_model import EOS, FIRST_BYTE, GREEDY, ByteTokenizer, ScriptedLlama, ask, tiny_model

pytestmark = pytest.mark.usefixtures("quick")
NUM_IDS = FIRST_BYTE + 128
NO_PIECE = FIRST_BYTE + 200


class AsciiTokenizer(ByteTokenizer):
    """Half of the rows have no piece; to decode one of them is an error, as in sentencepiece."""

    def __len__(self) -> int:
        return NUM_IDS

    def decode(self, ids: object) -> str:
        assert all(i < NUM_IDS for i in ids)  # type: ignore[attr-defined]
        return super().decode(ids)  # type: ignore[arg-type]


@pytest.fixture
def model() -> VisionLanguageModel:
    """Wants to answer an id that no piece belongs to, always."""
    model = tiny_model()
    model.tokenizer = AsciiTokenizer()
    assert isinstance(model.language_model, ScriptedLlama)
    model.language_model.script = lambda _: NO_PIECE
    return model


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.05])
def test_no_way_to_answer_takes_an_id_without_a_piece(
    model: VisionLanguageModel, temperature: float, penalty: float
) -> None:
    sampling = Sampling(temperature=temperature, repetition_penalty=penalty, max_new_tokens=12, seed=3)
    (found,) = generate(model, [ask("hello")], sampling)
    assert all(i < NUM_IDS for i in found.ids)
    with ChatEngine(model, max_concurrent=2, page_size=8, max_batch_tokens=64, update_interval=0) as engine:
        *_, last = engine.stream(ask("hello"), sampling)
        assert last.num_new_tokens > 0


def test_prompt_lookup_takes_none_either(model: VisionLanguageModel) -> None:
    (found,) = generate(model, [ask("hello hello")], GREEDY, prompt_lookup=3)
    assert all(i < NUM_IDS for i in found.ids)


def test_the_sampler_leaves_known_ids_as_they_are() -> None:
    sampler = RequestSampler(max_requests=1, vocab_size=8, device="cpu", num_ids=5)
    logits = torch.arange(8.0).repeat(2, 1)
    found = sampler(logits.clone(), sampler.prepare_tensor_args([]))
    assert torch.equal(found[:, :5], logits[:, :5])
    assert (found[:, 5:] == -math.inf).all()


def test_the_model_knows_how_many_ids_have_a_piece(model: VisionLanguageModel) -> None:
    assert model.num_ids == NUM_IDS
    assert tiny_model().num_ids == len(ByteTokenizer()) > EOS
