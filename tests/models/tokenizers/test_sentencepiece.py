"""Token ids as the slow `LlamaTokenizer` of transformers 4.30 gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from models.errors import CheckpointCorrupt, CheckpointMissing
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from tests.paths import DATA, GOLDENS

MODEL = GOLDENS / "minigpt_v2" / "weights" / "llama2-chat" / "tokenizer.model"
TOKENIZER = SentencePieceTokenizer(MODEL)
REFERENCE = sentencepiece.SentencePieceProcessor(model_file=str(MODEL))

RECORDED = json.loads((DATA / "real_vocab_segments.json").read_text())
SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}


@pytest.fixture(scope="module")
def real_pieces(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceTokenizer:
    """A stand-in for the real LLaMA vocabulary, whose file may not be shipped: the pieces of the recorded segments.

    A unigram model that prefers few pieces cuts these texts as the real BPE model does, except that it cannot order two
    pieces of equal length: `#` `##` for `##` `#`.
    """
    pieces = {0: "<unk>", 1: "<s>", 2: "</s>", 3997: "$$"} | {3 + byte: f"<0x{byte:02X}>" for byte in range(256)}
    pieces |= {i: token for s in RECORDED["segments"] for i, token in zip(s["ids"], s["tokens"], strict=True)}
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at run time
    for i in range(max(pieces) + 1):
        kind = {0: "UNKNOWN", 1: "CONTROL", 2: "CONTROL"}.get(i, "BYTE" if i < 259 else "NORMAL")
        proto.pieces.add(
            piece=pieces.get(i, f"<unused {i}>"),
            # In the real model two spaces are merged before a space and three hashes.
            score=-2.5 if pieces.get(i) == "\u2581###" else -1 - i / 65536,
            type=kind if i in pieces else "UNUSED",
        )
    proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback = "UNIGRAM", True
    proto.normalizer_spec.name, proto.normalizer_spec.remove_extra_whitespaces = "identity", False
    file = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    file.write_bytes(proto.SerializeToString())
    return SentencePieceTokenizer(file)


@pytest.mark.parametrize("segment", RECORDED["segments"], ids=lambda segment: repr(segment["text"])[:40])
def test_segments_of_the_real_vocabulary(segment: dict[str, Any], real_pieces: SentencePieceTokenizer) -> None:
    ids = real_pieces.encode(segment["text"], add_bos=segment["bos"])
    one, two = 29937, 2277
    text = " ".join(map(str, ids)).replace(f"{one} {two}", f"{two} {one}")
    assert text == " ".join(map(str, segment["ids"]))


def test_special_ids_of_the_real_vocabulary(real_pieces: SentencePieceTokenizer) -> None:
    ids = RECORDED["special_ids"]
    assert (real_pieces.bos_token_id, real_pieces.eos_token_id) == (ids["bos"], ids["eos"])
    assert real_pieces.pad_token_id == ids["pad"]


@pytest.mark.parametrize(
    "text", ["", " ", "  two", "a</s>b", "<s>[INST] <Img>", " ###", "</Img> [vqa] x [/INST]", "é漢🙂"]
)
def test_chunks_between_special_tokens_are_encoded_alone(text: str) -> None:
    expected: list[int] = []
    rest = text
    while rest:
        start, name = min(((rest.find(n), n) for n in SPECIAL if n in rest), default=(len(rest), ""))
        if start:
            expected += REFERENCE.encode(rest[:start])
        if name:
            expected.append(SPECIAL[name])
        rest = rest[start + len(name) :]
    assert TOKENIZER.encode(text) == expected
    assert TOKENIZER.encode(text, add_bos=True) == [1, *expected]


@given(st.text())
def test_any_text_survives_a_round_trip(text: str) -> None:
    plain = text.replace("<", "(").replace("\x00", "").replace("$$", "")  # the padding, which is dropped
    decoded = TOKENIZER.decode(TOKENIZER.encode(plain))
    # sentencepiece writes the space as U+2581, so that one character can't be told from a space.
    assert decoded == plain.replace("\u2581", " ")


def test_special_and_pad_ids_are_dropped_when_decoding() -> None:
    ids = [1, *TOKENIZER.encode("hello"), TOKENIZER.pad_token_id, 2]
    assert TOKENIZER.decode(ids) == "hello"


def test_tokens_added_beside_the_vocabulary() -> None:
    after = len(TOKENIZER)
    added = SentencePieceTokenizer(MODEL, added_tokens={"<|end_of_turn|>": after + 1}, eos_token="<|end_of_turn|>")
    assert len(added) == after + 2
    assert added.eos_token_id == after + 1
    assert added.encode("a<|end_of_turn|>") == [*TOKENIZER.encode("a"), after + 1]
    assert added.decode([*TOKENIZER.encode("a"), after + 1]) == "a"


def test_missing_and_broken_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match=r"tokenizer\.model not found"):
        SentencePieceTokenizer(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(CheckpointCorrupt, match="not a sentencepiece model"):
        SentencePieceTokenizer(tmp_path / "tokenizer.model")
