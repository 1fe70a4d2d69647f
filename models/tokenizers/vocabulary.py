"""Whether a tokenizer and an embedding belong together: every id has a row, and nearly every row a piece."""

from __future__ import annotations

from models.errors import CheckpointMismatch
from models.tokenizers.codegen import CodeGenTokenizer
from models.tokenizers.tiktoken import TiktokenTokenizer
from models.vision_language_model import Tokenizer

# Shares of an embedding's rows that may lie beyond the tokenizer's pieces. Models with byte pairs are padded when they
# are made (Phi-2: 905 of 51,200 rows, small ones by more), those with sentencepiece are not (Vicuna v0 has one more).
_PADDED, _PLAIN = 0.15, 0.01


def check_vocabulary(tokenizer: Tokenizer, num_rows: int, *, source: str) -> None:
    """Raises CheckpointMismatch if the folder `source` has a tokenizer of another model than its weights."""
    num_pieces = len(tokenizer)
    spare = _PADDED if isinstance(tokenizer, CodeGenTokenizer | TiktokenTokenizer) else _PLAIN
    if num_pieces > num_rows or num_rows - num_pieces > spare * num_rows:
        raise CheckpointMismatch(
            f"{source}: its tokenizer has {num_pieces:,} pieces, but the embedding of its weights {num_rows:,} rows; "
            "they belong to different models, or the tokenizer is incomplete. Download its files again."
        )
