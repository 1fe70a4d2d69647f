"""Text that can be encoded: browsers and JSON may bring half a surrogate pair, which UTF-8 and tokenizers refuse."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """The text with U+FFFD for every lone surrogate."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
