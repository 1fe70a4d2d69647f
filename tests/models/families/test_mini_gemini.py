"""Mini-Gemini's forms against plain formulas: HD, Mixtral, LLaMA-3 and Yi; text only, and images of other shapes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from sentencepiece import SentencePieceProcessor

from engine.chat_engine import ChatEngine
from engine.generate import generate
from models.conversation import Sampling, Turn
from models.errors import RequestError
from models.formats.llava import FORMATS
from models.loader import load_model
from models.tokenizers.pieces import PieceTokenizer
from models.vision_language_model import VisionLanguageModel
from tests.models.families.mgm_reference import Reference
from tests.models.families.mgm_writer import LLAMA_3_SPECIAL, Form, write_model
from tests.paths import GOLDENS

PIECES = next((GOLDENS / "mgm-7b").rglob("tokenizer.model"))
FORMS = {
    "vicuna": Form(tokenizer="sentencepiece"),
    "vicuna HD": Form(tokenizer="sentencepiece", is_hd=True),
    "mixtral": Form(
        tokenizer="sentencepiece",
        is_sparse=True,
        values={"rope_theta": 1e6, "sliding_window": None, "model_type": "mgm_mixtral"},
        tokenizer_values={"legacy": True},
    ),
    "mixtral HD": Form(
        tokenizer="sentencepiece",
        is_hd=True,
        is_sparse=True,
        values={"rope_theta": 1e6, "sliding_window": None},
        tokenizer_values={"legacy": True},
    ),
    "llama_3": Form(tokenizer="bytes", values={"rope_theta": 5e5, "model_type": "mgm"}),
    "llama_3 HD": Form(tokenizer="bytes", is_hd=True, values={"rope_theta": 5e5}),
    "yi": Form(
        tokenizer="sentencepiece",
        values={"rope_theta": 5e6, "eos_token_id": 451},
        tokenizer_values={"add_bos_token": False, "eos_token": "<|im_end|>", "legacy": True},
        added=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    ),
}
GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=8)
WIDE, TALL = (Image.effect_noise(size, 90).convert("RGB") for size in ((61, 23), (19, 50)))
CONVERSATIONS: dict[str, list[Turn]] = {
    "one image": [Turn("user", "What is it?", (WIDE,))],
    "two turns": [Turn("user", "What is it?", (TALL,)), Turn("assistant", "A cat."), Turn("user", "Why?")],
    "two images": [Turn("user", "What is in them?", (WIDE, TALL))],
    "an image in each turn": [
        Turn("user", "What is it?", (WIDE,)),
        Turn("assistant", "A cat."),
        Turn("user", "And this?", (TALL,)),
    ],
    "text only": [Turn("user", "Who are you?")],
}
each_form = pytest.mark.parametrize("form", FORMS)


def load(folder: Path, *overrides: str) -> VisionLanguageModel:
    path = folder / "config.yaml"
    return load_model(path, device="cpu", dtype="float32", overrides=overrides, report=None)


@each_form
def test_embeddings_and_logits_are_those_of_the_formulas(form: str, tmp_path: Path) -> None:
    reference = Reference(write_model(tmp_path / "model", FORMS[form], PIECES), FORMS[form])
    model = load(tmp_path)
    for name, turns in CONVERSATIONS.items():
        with torch.inference_mode():
            embeds = model.embed_prompt(turns)
            logits = model.language_model(inputs_embeds=embeds[None]).logits[0]
            expected = reference.embeds(model.tokenize(model.prompt_format.render(turns)))
            torch.testing.assert_close(embeds, expected, atol=1e-4, rtol=0, msg=f"embeddings of {name}")
            expected = reference.logits(expected)
        assert expected.std() > 1
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0, msg=f"logits of {name}")


@each_form
def test_the_engine_answers_as_generate_does(form: str, tmp_path: Path) -> None:
    """HD models take one image per question: two are more than their context holds."""
    write_model(tmp_path / "model", FORMS[form], PIECES, seed=1)
    model = load(tmp_path)
    conversations = list(CONVERSATIONS.values())
    if FORMS[form].is_hd:
        conversations.remove(CONVERSATIONS["two images"])
    answers = [generate(model, [turns], GREEDY)[0] for turns in conversations]
    with ChatEngine(model) as engine:
        for turns, answer in zip(conversations, answers, strict=True):
            *_, last = engine.stream(turns, GREEDY)
            assert (last.text, last.num_new_tokens) == (answer.text, len(answer.ids))
        if FORMS[form].is_hd:
            with pytest.raises(RequestError, match="takes at most 1"):
                list(engine.stream(CONVERSATIONS["two images"], GREEDY))


def chunked(text: str, special: Sequence[str]) -> list[str]:
    """Text cut before and behind every special token."""
    for token in special:
        text = text.replace(token, f"\0{token}\0")
    return [chunk for chunk in text.split("\0") if chunk]


@each_form
def test_ids_of_a_prompt(form: str, tmp_path: Path) -> None:
    """Pieces are texts of their own, special tokens cut them, and only the first keeps a BOS, where there is one."""
    write_model(tmp_path / "model", FORMS[form], PIECES)
    model = load(tmp_path)
    segments = model.prompt_format.render(CONVERSATIONS["an image in each turn"])
    texts = [segment for segment in segments if isinstance(segment, str)]
    ids = [piece for piece in model.tokenize(segments) if isinstance(piece, list)]
    if FORMS[form].tokenizer == "bytes":
        plain = ["".join(chunk for chunk in chunked(text, LLAMA_3_SPECIAL) if chunk[:2] != "<|") for text in texts]
        assert [model.tokenizer.decode(piece) for piece in ids] == plain
        begin = model.tokenizer.bos_token_id
        assert ids[0][0] == begin
        assert [piece.count(begin) for piece in ids] == [1, 0, 0]
        return
    sentencepiece = SentencePieceProcessor(model_file=str(PIECES))
    special = {"<s>": 1, "</s>": 2} | {name: 450 + n for n, name in enumerate(FORMS[form].added)}
    expected: list[list[int]] = []
    for index, text in enumerate(texts):
        piece = [1] if index == 0 and not FORMS[form].added else []
        for place, chunk in enumerate(chunked(text, list(special))):
            if chunk in special:
                piece.append(special[chunk])
            elif place and not FORMS[form].tokenizer_values.get("legacy"):
                # "legacy: false": no prefix space behind a special token; "\n" keeps the encoder from adding one.
                marked = sentencepiece.encode(f"\n{chunk}")
                piece += marked[len(sentencepiece.encode("\n")) :]
            else:
                piece += sentencepiece.encode(chunk)
        expected.append(piece)
    assert ids == expected


@pytest.mark.parametrize("settings", [None, {}, {"tokenizer_class": "LlamaTokenizer", "legacy": None}])
def test_a_tokenizer_model_alone_is_used_as_when_it_was_released(
    settings: dict[str, str | None] | None, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(PIECES.read_bytes())
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = PieceTokenizer(tmp_path)
    plain = SentencePieceProcessor(model_file=str(PIECES))
    assert tokenizer.encode("a b</s>USER", add_bos=True) == [1, *plain.encode("a b"), 2, *plain.encode("USER")]
    assert tokenizer.encode("USER") == plain.encode("USER")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


@pytest.mark.parametrize(
    ("form", "conversation", "stops"),
    [
        ("vicuna", "vicuna_v1", {"</s>"}),
        ("mixtral", "mistral_instruct", {"</s>"}),
        ("llama_3", "llama_3", {"<|end_of_text|>", "<|eot_id|>"}),
        ("yi", "chatml_direct", {"<|im_end|>", "<|endoftext|>"}),
    ],
)
def test_the_conversation_is_told_by_vocabulary_and_tensors(
    form: str, conversation: str, stops: set[str], tmp_path: Path
) -> None:
    write_model(tmp_path / "a folder of any name", FORMS[form], PIECES)
    model = load(tmp_path)
    expected = FORMATS[conversation]
    assert replace(model.prompt_format, reserved=expected.reserved) == expected
    assert isinstance(model.tokenizer, PieceTokenizer)
    assert set(model.eos_token_ids) == {model.tokenizer.id_of(piece) for piece in stops}
    padding = "<|reserved_special_token_0|>" if form == "llama_3" else "<unk>"
    assert model.tokenizer.pad_token_id == model.tokenizer.id_of(padding)
    assert (model.info.max_images_per_turn, model.info.context_tokens) == (3, 2048)
    assert load(tmp_path, "context_tokens=1000").info.context_tokens == 1000
