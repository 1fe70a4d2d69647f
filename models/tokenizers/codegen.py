"""Phi-2's tokenizer as TinyGPT-V and MoE-LLaVA used it: byte pairs, whitespace tokens, no BOS, old decoding.

The reference is the slow `CodeGenTokenizer` of transformers 4.36; today's class gives the same ids, but decodes without
its clean-up and without its spaces around added tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from models.disk import read_json
from models.errors import CheckpointCorrupt, CheckpointMissing
from models.tokenizers.pieces import TRIAL, num_ids_of, open_tokenizer, special_tokens_of, usable

_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class CodeGenTokenizer:
    """Text segments -> ids and ids -> text. `bos_token_id` is `<|endoftext|>`, which is EOS and padding as well."""

    def __init__(self, folder: Path) -> None:
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise CheckpointMissing(
                f"{folder} has no tokenizer (vocab.json and merges.txt, or tokenizer.json); download the whole folder."
            )
        with usable(folder):
            self._tokenizer = open_tokenizer(folder)
            self.bos_token_id: int = self._tokenizer.bos_token_id
            self.eos_token_id = self.pad_token_id = self.bos_token_id
            self.special_tokens = special_tokens_of(self._tokenizer)
            _check_merges(folder, self._tokenizer)
            self._num_ids = num_ids_of(self._tokenizer)
            self._special = set(self._tokenizer.all_special_ids)
            self._added = set(self._tokenizer.added_tokens_decoder) - self._special
            self.encode(TRIAL)

    def __len__(self) -> int:
        return self._num_ids

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Token ids of one segment. `add_bos` changes nothing: this family has no BOS in its prompts."""
        del add_bos
        return cast(list[int], self._tokenizer.encode(text, add_special_tokens=False))

    def token_id(self, piece: str) -> int:
        """The id of a piece of the vocabulary."""
        return cast(int, self._tokenizer.convert_tokens_to_ids(piece))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens and ids without a piece dropped."""
        pieces: list[str] = []
        run: list[int] = []
        for token in [int(i) for i in ids if 0 <= int(i) < self._num_ids] + [-1]:
            if token in self._special:
                continue
            if token >= 0 and token not in self._added:
                run.append(token)
                continue
            if run and (text := self._text(run)):
                pieces.append(text)
            run = []
            if token >= 0:
                pieces.append(self._text([token]))
        return clean_up(" ".join(pieces))

    def _text(self, ids: list[int]) -> str:
        return cast(str, self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _check_merges(folder: Path, tokenizer: Any) -> None:
    """Raises CheckpointCorrupt if a piece can't be made: half of the merges would silently give other ids."""
    try:
        if (file := folder / "tokenizer.json").is_file():
            content = read_json(file)["model"]
            pieces = content["vocab"]
            made = {merge.replace(" ", "") if isinstance(merge, str) else "".join(merge) for merge in content["merges"]}
        else:
            pieces = read_json(folder / "vocab.json")
            file = folder / "merges.txt"
            made = {line.replace(" ", "") for line in file.read_text(encoding="utf-8").splitlines()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointCorrupt(
            f"{file} can't be used ({type(error).__name__}); delete it and download it again."
        ) from error
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    unmade = [piece for piece in pieces if len(piece) > 1 and piece not in made and piece not in added]
    if unmade:
        raise CheckpointCorrupt(
            f"{file}: {len(unmade):,} of {len(pieces):,} pieces can't be made from its merges; "
            "delete it and download it again."
        )


def clean_up(text: str) -> str:
    """Spaces before punctuation and English contractions removed (transformers' `clean_up_tokenization`)."""
    for spaced in _CLEAN_UP:
        text = text.replace(spaced, "'" if spaced == " ' " else spaced[1:])
    return text
