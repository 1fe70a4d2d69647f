"""Pictures of a request: data URIs alone. No address and no path is ever opened."""

from __future__ import annotations

import binascii
import re
from typing import Any

from app.api.openai.api_errors import ApiError
from app.chat.pictures import Picture, open_picture
from models.errors import ImageError

MAX_PICTURES = 32  # in one request

# Of what the page takes, too (app/chat/decoding); the bytes decide which of them it is.
_KINDS = "png|jpe?g|webp|gif|bmp|x-ms-bmp|tiff?|avif|heic|heif|x-icon|vnd\\.microsoft\\.icon|x-portable-[a-z]+"
_ESCAPES = {"%2B": "+", "%2F": "/", "%3D": "=", "%20": "", "%0A": "", "%0D": "", "%09": ""}
_DATA_URI = re.compile(rf"\s*data:image/(?:{_KINDS})\s*(?:;[^,;]*)*;\s*base64\s*,", re.IGNORECASE)


def uri_of(value: Any, param: str) -> str:
    """The address in an `image_url`, which is an object or a bare text. Raises ApiError unless it is a data URI."""
    uri = value.get("url") if isinstance(value, dict) else value
    if not isinstance(uri, str):
        raise ApiError(400, f'{param} must be {{"url": "data:image/…"}}.', code="invalid_type", param=param)
    if not _DATA_URI.match(uri[:200]):
        shown = uri[:40] + ("…" if len(uri) > 40 else "")
        raise ApiError(
            400,
            f"{param} is {shown!r}: pictures come as data URIs (data:image/png;base64,…, "
            "or another kind that the page takes). "
            "This server fetches no address and opens no file, so that nobody can make it ask others.",
            code="unsupported_image_url",
            param=param,
        )
    return uri


def picture_of(uri: str, param: str) -> Picture:
    """The picture in a data URI; its bytes decide what it is. Raises ApiError for what is not one."""
    data = uri[uri.index(",") + 1 :]
    try:
        # Without strict_mode it passes over whitespace, which some clients wrap their lines with.
        decoded = binascii.a2b_base64(_unescaped(data))
        return open_picture(decoded, name=param)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{param} is not base64: {error}.", code="invalid_image", param=param) from error
    except ImageError as error:
        raise ApiError(400, str(error), code="invalid_image", param=param) from error


def _unescaped(data: str) -> str:
    """Base64 whose characters may be escaped as in an address. Raises ValueError for other escapes.

    Each is replaced all at once: a function that looks for any escape makes a list of the pieces between them, which
    for a body of nothing else takes fifty times its size.
    """
    if "%" not in data:
        return data
    for escape, character in _ESCAPES.items():
        data = data.replace(escape, character).replace(escape.lower(), character)
    if "%" in data:
        raise ValueError("it holds a % that is no escape")
    return data
