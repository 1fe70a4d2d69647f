"""Tokenizers of the LLaVA line: each piece of a prompt is tokenized as a text of its own, with one BOS in all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from transformers import AutoTokenizer, PreTrainedConfig

from models.errors import CheckpointCorrupt, CheckpointMissing

_FILES = ("tokenizer.model", "tokenizer.json", "vocab.json")


class PieceTokenizer:
    """A transformers tokenizer with the rules of LLaVA's `tokenizer_image_token`."""

    def __init__(self, folder: Path) -> None:
        if not any((folder / name).is_file() for name in _FILES):
            raise CheckpointMissing(f"{folder} has no tokenizer ({', '.join(_FILES)}); download the whole folder.")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, config=PreTrainedConfig())
        except (ValueError, OSError, KeyError, ImportError) as error:
            raise CheckpointCorrupt(f"{folder}: its tokenizer can't be used: {str(error).splitlines()[0]}") from error
        self.eos_token_id: int = self._tokenizer.eos_token_id
        self.bos_token_id: int = self._tokenizer.bos_token_id
        self.pad_token_id: int = self._tokenizer.pad_token_id

    def __len__(self) -> int:
        return len(self._tokenizer)

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Ids of one piece; a BOS that the tokenizer puts in front is kept only where `add_bos` asks for it."""
        ids = cast(list[int], self._tokenizer(text)["input_ids"])
        return ids[1:] if not add_bos and ids[:1] == [self.bos_token_id] else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens dropped."""
        return cast(str, self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def id_of(self, piece: str) -> int | None:
        """The id of a piece that the vocabulary holds as a whole, else None."""
        return cast(dict[str, int], self._tokenizer.get_vocab()).get(piece)
