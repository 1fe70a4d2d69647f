"""Texts that end an answer: what comes before the first of them, and never a part of one while more may come."""

from __future__ import annotations

from collections.abc import Sequence


def before_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text that is whole in it, and whether there is one.

    The first is the one that ends first, as an answer that arrives in pieces ends there.
    """
    found = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(found)[1]], True) if found else (text, False)


def certain_part(text: str, stops: Sequence[str]) -> str:
    """The text, which holds no stop text, without an end that may be the beginning of one."""
    longest = max(map(len, stops), default=0)
    for length in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return text[:-length]
    return text
