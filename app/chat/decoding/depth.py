"""More than 8 bits per value: scaled to 8 by what the values are, not cut off and not shown as black."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image

ROWS = 256  # that are worked on at a time: a whole picture in wider numbers would be several times its size
DEPTHS = (8, 10, 12, 16)  # bits that cameras and instruments deliver, all of them in 16-bit files

_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_NEARLY_BLACK = 16  # of 255; values of 12 bits or fewer in a 16-bit file stay below it


def grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Grey values of 16 or 32 bits, or floats, as mode "L"; Pillow's own conversion would cut them off at 255."""
    values = np.asarray(image)
    top = float(np.nan_to_num(values).max(initial=0.0))
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < top <= 65535):
        factor = 255.0 / white(top)
    elif image.mode == "F" and 0 < top <= 1:
        factor = 255.0
    else:
        factor = 255.0 / top if top > 255 else 1.0
    return Image.fromarray(_scaled(values, factor))


def colour_to_8_bit(image: Image.Image, again: Image.Image, rawmode: str) -> Image.Image:
    """`image`, or, if it came out nearly black because its 16-bit file holds fewer bits, the same made bright.

    Pillow reads the upper byte of 16-bit colours. `again` is the same file, opened but not loaded, from which the lower
    bytes are read; `rawmode` is the layout that `image` was read with (see `sixteen_bit_layout`).
    """
    bands = image.getextrema()
    tops = [int(high) for _, high in bands[:3] if isinstance(high, int)]  # type: ignore[misc]
    if not tops or max(tops) >= _NEARLY_BLACK:
        return image
    lower = rawmode[:-1] + _SWAPPED[rawmode[-1]]
    again.tile = [(*part[:3], _with_layout(part[3], lower)) for part in again.tile]  # type: ignore[attr-defined]
    again.load()
    high, low = np.asarray(image), np.asarray(again)
    top = int((high[..., :3].astype(np.uint16) << 8 | low[..., :3]).max(initial=0))
    result = np.empty_like(high)
    for row in range(0, len(high), ROWS):
        part = slice(row, row + ROWS)
        values = high[part].astype(np.uint16) << 8 | low[part]
        result[part] = _scaled(values, 255.0 / white(top))
        result[part, :, 3:] = high[part, :, 3:]  # opacity is always of the whole range
    return Image.fromarray(result)


def white(top: float) -> int:
    """The value that is white where the brightest one is `top`: the highest of the least bits that hold it."""
    return next((2**bits - 1 for bits in DEPTHS if top < 2**bits), 65535)


def sixteen_bit_layout(image: Image.Image) -> str | None:
    """How an opened file's 16-bit colours lie in it, in Pillow's words ("RGB;16B"); None for other files."""
    for part in getattr(image, "tile", []):
        args = part[3]
        for value in args if isinstance(args, tuple) else (args,):
            if value in ("RGB;16B", "RGB;16L", "RGB;16N", "RGBA;16B", "RGBA;16L", "RGBA;16N"):
                return str(value)
    return None


def _with_layout(args: Any, rawmode: str) -> Any:
    return (rawmode, *args[1:]) if isinstance(args, tuple) else rawmode


def _scaled(values: np.ndarray, factor: float) -> np.ndarray:
    """Values times `factor`, rounded and held within 0..255; NaN becomes 0."""
    result = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), ROWS):
        part = np.nan_to_num(values[row : row + ROWS].astype(np.float64)) * factor
        result[row : row + ROWS] = np.clip(np.rint(part), 0, 255)
    return result
