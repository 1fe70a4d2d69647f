"""The tokenizers of Qwen-1 and StableLM-2, from their released `.tiktoken` files, without the code that came with them.

Both are byte-level BPE over NFC text: the two neighbours that together have the lowest rank merge first.
Source: `tokenization_qwen.py`, `tokenization_arcade100k.py` of the released models; checked against `tiktoken`'s rules.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from models.errors import CheckpointCorrupt

_END = "<|endoftext|>"
_CHAT = ("<|im_start|>", "<|im_end|>")
# By file name: how many ids after the last rank stay unused, and the special tokens that follow.
_SPECIALS: dict[str, tuple[int, tuple[str, ...]]] = {
    "qwen.tiktoken": (0, (_END, *_CHAT, *(f"<|extra_{n}|>" for n in range(205)))),
    "arcade100k.tiktoken": (
        1,
        (
            _END, "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<gh_stars>", "<filename>",
            "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>",
            "<jupyter_output>", "<empty_output>", "<commit_before>", "<commit_msg>", "<commit_after>", "<reponame>",
            "<|endofprompt|>", *_CHAT, "<|pause|>", *(f"<|reg{n}|>" for n in range(8)), "<|extra0|>",
        ),
    ),
}  # fmt: skip
# Where text is cut before merging: contractions, words, single digits, punctuation, whitespace.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def find_tiktoken_file(folder: Path) -> Path | None:
    """The folder's `.tiktoken` file of a known name, if it has one."""
    return next((folder / name for name in _SPECIALS if (folder / name).is_file()), None)


class TiktokenTokenizer:
    """Text <-> ids. `<|endoftext|>` is EOS and padding; there is no BOS. Special tokens in a text are recognised."""

    def __init__(self, file: Path) -> None:
        ranks = _read_ranks(file)
        num_unused, names = _SPECIALS[file.name]
        first = len(ranks) + num_unused
        self.special_ids = {name: first + n for n, name in enumerate(names)}
        self.special_tokens = names
        self.bos_token_id = self.eos_token_id = self.pad_token_id = self.special_ids[_END]
        self._bytes = {rank: token for token, rank in ranks.items()}
        self._split = re.compile("(" + "|".join(map(re.escape, names)) + ")")
        self._tokenizer = _byte_level_bpe(ranks, file)

    def __len__(self) -> int:
        return max(self.special_ids.values()) + 1

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Ids of one piece of text. `add_bos` changes nothing."""
        del add_bos
        ids: list[int] = []
        for piece in self._split.split(unicodedata.normalize("NFC", text)):
            if piece in self.special_ids:
                ids.append(self.special_ids[piece])
            elif piece:
                ids += self._tokenizer.encode(piece, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special ones dropped; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self._bytes.get(int(i), b"") for i in ids).decode("utf-8", errors="replace")

    def id_of(self, piece: str) -> int | None:
        """The id of a special token, else None."""
        return self.special_ids.get(piece)


def _read_ranks(file: Path) -> dict[bytes, int]:
    """Token -> rank from lines of a token in base64 and its rank. Raises CheckpointCorrupt."""
    try:
        lines = [line.split() for line in file.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (ValueError, binascii.Error, OSError) as error:
        raise CheckpointCorrupt(f"{file} is not a tiktoken vocabulary; delete it and download it again.") from error
    if sorted(ranks.values()) != list(range(len(lines))) or any(bytes([n]) not in ranks for n in range(256)):
        raise CheckpointCorrupt(f"{file} is incomplete ({len(lines)} tokens); delete it and download it again.")
    return ranks


def _byte_level_bpe(ranks: dict[bytes, int], file: Path) -> Tokenizer:
    """The same merges as a BPE of the tokenizers library, over its printable alphabet for bytes."""
    letters = _letters()
    text = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [
        (text[left], text[right])
        for token in sorted(ranks, key=ranks.__getitem__)
        if len(token) > 1
        for left, right in [_last_merge(token, ranks, file)]
    ]
    vocabulary = {text[token]: rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _last_merge(token: bytes, ranks: dict[bytes, int], file: Path) -> tuple[bytes, bytes]:
    """The two tokens that merge into this one, from running BPE on its bytes with lower ranks only."""
    limit = ranks[token]
    parts = [token[n : n + 1] for n in range(len(token))]
    while len(parts) > 2:
        rank, position = min((ranks.get(a + b, limit), n) for n, (a, b) in enumerate(pairwise(parts)))
        if rank >= limit:
            raise CheckpointCorrupt(f"{file} can't form its token {limit}; download it again.")
        parts[position : position + 2] = [parts[position] + parts[position + 1]]
    return cast(tuple[bytes, bytes], tuple(parts))


def _letters() -> dict[int, str]:
    """GPT-2's printable character for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
