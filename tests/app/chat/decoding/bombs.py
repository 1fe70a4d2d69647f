"""Small files that are a lot of work."""

from __future__ import annotations

from PIL import Image

from tests.app.helpers import encode

_EMPTY_SCAN = bytes([0xFF, 0xDA, 0, 8, 1, 1, 0, 1, 63, 0])  # one component, all but its mean, nothing new


def with_scans(more: int, side: int = 64) -> bytes:
    """A valid progressive JPEG with `more` scans after the usual ones; each goes over the whole picture."""
    data = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    end = data.rindex(b"\xff\xd9")
    return data[:end] + _EMPTY_SCAN * more + data[end:]
