"""The tokenizer of the LLaMA line exactly as the originals used it: sentencepiece, one chunk at a time.

The reference is the slow `LlamaTokenizer` of transformers 4.30. Today's transformers classes differ for text after a
special token and for text that begins with a space (docs/decisions/loading.md), and these models were trained with the
old ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from models.errors import CheckpointCorrupt, CheckpointMissing


class SentencePieceTokenizer:
    """`<unk>`, `<s>`, `</s>` in a text become ids 0, 1, 2; every piece between them is encoded by itself.

    Each piece gets sentencepiece's dummy prefix space; whitespace is kept. `pad_token` is an ordinary piece that
    decoding drops (the originals set "$$"). `added_tokens` are special tokens beside the vocabulary, with their ids
    (OpenChat's); `eos_token` is one of them that ends answers in place of `</s>`.
    """

    def __init__(
        self,
        model_file: Path,
        *,
        pad_token: str = "$$",
        added_tokens: Mapping[str, int] | None = None,
        eos_token: str = "</s>",
    ) -> None:
        if not model_file.is_file():
            raise CheckpointMissing(
                f"{model_file} not found. The language model's folder needs its sentencepiece file tokenizer.model; "
                "delete it and download it again from where the weights came from."
            )
        try:
            self._processor = SentencePieceProcessor(model_file=str(model_file))
        except (RuntimeError, OSError) as error:
            raise CheckpointCorrupt(
                f"{model_file} is not a sentencepiece model; delete it and download it again."
            ) from error
        self.bos_token_id: int = self._processor.bos_id()
        self.eos_token_id: int = self._processor.eos_id()
        self.pad_token_id: int = self._processor.piece_to_id(pad_token)
        self._special_ids = {
            "<unk>": self._processor.unk_id(),
            "<s>": self.bos_token_id,
            "</s>": self.eos_token_id,
            **(added_tokens or {}),
        }
        self.special_tokens = tuple(self._special_ids)
        self.eos_token_id = self._special_ids[eos_token]
        self._dropped_ids = {*self._special_ids.values(), self.pad_token_id}
        self._split = re.compile("(" + "|".join(map(re.escape, self._special_ids)) + ")")

    def __len__(self) -> int:
        return max(int(self._processor.vocab_size()), 1 + max(self._special_ids.values()))

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Token ids of one text segment; `add_bos` puts one BOS in front. Never adds EOS."""
        ids = [self.bos_token_id] if add_bos else []
        for chunk in self._split.split(text):
            if chunk in self._special_ids:
                ids.append(self._special_ids[chunk])
            elif chunk:
                ids += self._processor.encode(chunk)
        return ids

    def decode(self, ids: Sequence[int] | Iterable[int]) -> str:
        """The text of generated ids; special ids, the pad id and ids without a piece are dropped, and a first space."""
        num_pieces = self._processor.vocab_size()
        kept = [int(i) for i in ids if 0 <= int(i) < num_pieces and int(i) not in self._dropped_ids]
        return str(self._processor.decode(kept))
