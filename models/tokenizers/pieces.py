"""Tokenizers of the LLaVA line: each piece of a prompt is tokenized as a text of its own, with one BOS in all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedConfig

from models.disk import read_json
from models.errors import CheckpointCorrupt, CheckpointMissing, MiniVLMError

_FILES = ("tokenizer.model", "tokenizer.json", "vocab.json")
TRIAL = "a"  # encoded once: some settings of a tokenizer_config.json are first read then


class PieceTokenizer:
    """A transformers tokenizer with the rules of LLaVA's `tokenizer_image_token`."""

    def __init__(self, folder: Path) -> None:
        if not any((folder / name).is_file() for name in _FILES):
            raise CheckpointMissing(f"{folder} has no tokenizer ({', '.join(_FILES)}); download the whole folder.")
        with usable(folder):
            self._tokenizer = open_tokenizer(folder)
            self.eos_token_id: int = self._tokenizer.eos_token_id
            self.bos_token_id: int = self._tokenizer.bos_token_id
            self.special_tokens = special_tokens_of(self._tokenizer)
            pad = self._tokenizer.pad_token_id
            self.pad_token_id: int = self.eos_token_id if pad is None else pad
            self._num_ids = num_ids_of(self._tokenizer)
            self.encode(TRIAL)

    def __len__(self) -> int:
        return self._num_ids

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Ids of one piece; a BOS that the tokenizer puts in front is kept only where `add_bos` asks for it."""
        ids = cast(list[int], self._tokenizer(text)["input_ids"])
        return ids[1:] if not add_bos and ids[:1] == [self.bos_token_id] else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens and ids without a piece dropped."""
        known = [i for i in ids if 0 <= i < len(self)]
        return cast(str, self._tokenizer.decode(known, skip_special_tokens=True))

    def id_of(self, piece: str) -> int | None:
        """The id of a piece that the vocabulary holds as a whole, else None."""
        return cast(dict[str, int], self._tokenizer.get_vocab()).get(piece)


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """A tokenizer is made of a folder's files in the block, and tried. Raises CheckpointCorrupt, whatever goes wrong:
    they may hold anything in any place, and neither transformers nor we look at all of it."""
    try:
        yield
    except MiniVLMError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if any(said in str(error) for said in ("custom code", "trust_remote_code")):
            raise CheckpointCorrupt(f"{folder}: its tokenizer is code of its own, which is never run.") from error
        raise CheckpointCorrupt(
            f"{folder}: its tokenizer can't be used ({reason}); delete it and download it again."
        ) from error


def num_ids_of(tokenizer: Any) -> int:
    """One more than the largest id of a transformers tokenizer; added tokens may leave a gap before them."""
    return max(len(tokenizer), 1 + max(tokenizer.added_tokens_decoder, default=0))


def special_tokens_of(tokenizer: Any) -> tuple[str, ...]:
    """The texts that a transformers tokenizer takes for control tokens; more than those it has a role for."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(dict.fromkeys((*tokenizer.all_special_tokens, *added)))


def open_tokenizer(folder: Path) -> Any:
    """A folder's tokenizer as transformers makes it. Raises CheckpointCorrupt where its files are damaged.

    Where nothing but `tokenizer.model` says how it is used, it is Llama's with the defaults that transformers had when
    these models were released: a BOS comes first, and a prefix space after every special token ("legacy").
    """
    with usable(folder):
        if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
            file = folder / "tokenizer_config.json"
            values = read_json(file) if file.is_file() else {}
            if values.get("tokenizer_class", "LlamaTokenizer") == "LlamaTokenizer":
                defaults: dict[str, Any] = {key: True for key in ("add_bos_token", "legacy") if values.get(key) is None}
                return LlamaTokenizer.from_pretrained(
                    folder, trust_remote_code=False, local_files_only=True, **defaults
                )
        return AutoTokenizer.from_pretrained(
            folder, config=PreTrainedConfig(), trust_remote_code=False, local_files_only=True
        )
