"""Tokenizers from `.tiktoken` files: against the plain rule (lowest rank merges first), and bad files."""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.errors import CheckpointCorrupt
from models.tokenizers.tiktoken import TiktokenTokenizer, find_tiktoken_file
from tests.paths import GOLDENS

CASES = GOLDENS
FILE = next((CASES / "moe-llava-stablelm" / "weights").rglob("arcade100k.tiktoken"))
WORDS = [
    b"th",
    b"he",
    b" t",
    b" th",
    b" the",
    b"ab",
    b"aba",
    b"abab",
    b"ababa",
    b"\r\n",
    b"  ",
    b"\xc3\xa9",
    b"\xe6\x97",
]


def write(folder: Path, name: str, tokens: Sequence[bytes]) -> Path:
    lines = [base64.b64encode(token).decode() + f" {rank}" for rank, token in enumerate(tokens)]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> TiktokenTokenizer:
    folder = tmp_path_factory.mktemp("qwen")
    return TiktokenTokenizer(write(folder, "qwen.tiktoken", [bytes([n]) for n in range(256)] + WORDS))


@pytest.fixture(scope="module")
def arcade() -> TiktokenTokenizer:
    return TiktokenTokenizer(FILE)


def merged(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Tiktoken's rule: as long as two neighbours form a token, those of the lowest rank (leftmost first) merge."""
    if word in ranks:
        return [ranks[word]]
    parts = [bytes([byte]) for byte in word]
    while True:
        pairs = [(ranks[a + b], n) for n, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not pairs:
            return [ranks[part] for part in parts]
        _, n = min(pairs)
        parts[n : n + 2] = [parts[n] + parts[n + 1]]


@given(st.text(alphabet="abthe é日本12 '\r\n\t_-<|>", max_size=40))
def test_ids_are_those_of_the_plain_rule(arcade: TiktokenTokenizer, text: str) -> None:
    """For text in one alphabet, where Python's own \\w is as good as Unicode's letters for cutting it."""
    lines = (line.split() for line in FILE.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    pattern = re.compile(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:[^\w\r\n]|_)?[^\W\d_]+|\d| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    expected = [token for word in pattern.findall(text) for token in merged(word.encode(), ranks)]
    assert arcade.encode(text) == expected


@given(st.text(max_size=30))
@example("a<reponame>b")
def test_decoding_gives_the_normalised_text_back(arcade: TiktokenTokenizer, text: str) -> None:
    """All but special tokens, which are dropped; Hypothesis finds their names in the source and tries them."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", errors="replace").decode())
    special = re.compile("|".join(map(re.escape, arcade.special_ids)))
    assert arcade.decode(arcade.encode(text)) == special.sub("", text)


def test_special_tokens(arcade: TiktokenTokenizer, qwen: TiktokenTokenizer) -> None:
    # One id after the 384 ranks is unused.
    assert (arcade.eos_token_id, arcade.id_of("<|reg0|>"), len(arcade)) == (385, 408, 417)
    first = 256 + len(WORDS)
    assert (qwen.eos_token_id, qwen.id_of("<|extra_0|>"), len(qwen)) == (first, first + 3, first + 208)
    assert qwen.encode("a<|im_end|>b<|extra_10|>") == [97, first + 2, 98, first + 13]
    assert qwen.decode([97, first + 2, 98, first, len(qwen) + 5]) == "ab"
    assert qwen.id_of("a") is None
    assert qwen.encode("ababa", add_bos=True) == [qwen.encode("ababa")[0]]


def test_half_characters_become_replacement_characters(qwen: TiktokenTokenizer) -> None:
    assert qwen.decode([0xE6, 0x97]) == "�"
    assert qwen.encode("e\u0301") == qwen.encode("é")  # NFC


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello", "not a tiktoken vocabulary"),
        ("AA== x", "not a tiktoken vocabulary"),
        ("AA== 0\nAQ== 1", r"incomplete \(2 tokens\)"),
        ("", r"incomplete \(0 tokens\)"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "qwen.tiktoken").write_text(content)
    file = find_tiktoken_file(tmp_path)
    assert file is not None
    with pytest.raises(CheckpointCorrupt, match=message):
        TiktokenTokenizer(file)


def test_a_token_that_nothing_merges_into_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "qwen.tiktoken", [bytes([n]) for n in range(256)] + [b"xyz"])
    with pytest.raises(CheckpointCorrupt, match=r"qwen\.tiktoken can't form its token 256"):
        TiktokenTokenizer(file)


def test_a_folder_without_one() -> None:
    assert find_tiktoken_file(CASES) is None
