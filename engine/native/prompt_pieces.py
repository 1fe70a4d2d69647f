"""Steps that read prompts, in pieces of as many tokens as go through the operations together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from engine.native.operations import MOST_TOKENS


@dataclass(frozen=True)
class ReadChat:
    """A step's tokens from `first` on, before `last`, of a chat with `num_keys`, listed from `key` on."""

    first: int
    last: int
    key: int
    num_keys: int


@dataclass(frozen=True)
class Piece:
    """At most MOST_TOKENS tokens of some chats, T, one chat's after the other's.

    `spans`: of each chat, as ChatSpan has it. `kept`: the tokens, at most MOST_CHATS, whose logits are asked for.
    """

    ids: Sequence[int]
    positions: Sequence[int]
    spans: Sequence[tuple[int, int, int, int]]
    kept: Sequence[int]


@dataclass(frozen=True)
class PieceRead:
    """The logits of the tokens that were kept, [kept, V] in fp32, which the next call overwrites, and of each token
    [T] whether it has a key or value that is not finite."""

    logits: Tensor
    are_broken: Tensor


def pieces(
    ids: Sequence[int],
    positions: Sequence[int],
    chats: Sequence[ReadChat],
    kept: Sequence[int],
    *,
    most: int = MOST_TOKENS,
) -> Iterator[tuple[Piece, list[int]]]:
    """A step's tokens in pieces of about the same size, at most `most`, and which of `kept` each has."""
    size = math.ceil(len(ids) / math.ceil(len(ids) / most))
    for start in range(0, len(ids), size):
        end = min(start + size, len(ids))
        spans = []
        for chat in chats:
            first, last = max(chat.first, start), min(chat.last, end)
            if first < last:
                spans.append((first - start, last - first, chat.key, chat.num_keys - (chat.last - last)))
        places = [place for place, token in enumerate(kept) if start <= token < end]
        here = slice(start, end)
        yield Piece(ids[here], positions[here], spans, [kept[place] - start for place in places]), places
