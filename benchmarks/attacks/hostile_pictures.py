"""Small files that are much work, or would be."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

from PIL import Image
from PIL.PngImagePlugin import PngInfo

_EMPTY_SCAN = bytes([0xFF, 0xDA, 0, 8, 1, 1, 0, 1, 63, 0])  # goes over the whole picture and changes nothing
LARGE = 7000  # pixels a side: 49 megapixels, which are let through


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    """An image as a file of this kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def large_png(side: int = LARGE) -> bytes:
    """A few kilobytes, and as many pixels as a picture may have."""
    return encoded(Image.new("P", (side, side), 7), "PNG")


def jpeg_with_scans(more: int, side: int = LARGE) -> bytes:
    """A progressive JPEG with this many more scans."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True, quality=50)
    end = data.rindex(b"\xff\xd9")
    return data[:end] + _EMPTY_SCAN * more + data[end:]


def distinct_copies(content: bytes, count: int) -> Iterator[bytes]:
    """The file `count` times, each with another number behind its end: one picture, but never the same bytes."""
    return (content + b"%d" % number for number in range(count))


def odd_pictures() -> dict[str, bytes]:
    """Other ways to make a decoder work, by name."""
    rgb, grey = Image.new("RGB", (LARGE, LARGE), "red"), Image.new("L", (LARGE, LARGE), 3)
    frames = [Image.new("P", (3000, 3000), number) for number in range(60)]
    text = PngInfo()
    text.add_text("x", "y" * 60_000_000, zip=True)
    profile = b"\0" * 128 + b"x" * 20_000_000
    return {
        "TIFF, deflated": encoded(rgb, "TIFF", compression="tiff_deflate"),
        "TIFF, 200 megapixels": encoded(Image.new("1", (20_000, 10_000)), "TIFF", compression="group4"),
        "GIF of 60 frames": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "WebP": encoded(Image.new("RGB", (7000, 7000), "red"), "WEBP", lossless=True),
        "AVIF": encoded(Image.new("RGB", (6000, 6000), "red"), "AVIF", speed=10),
        "PNG with a text of 60 MB": encoded(Image.new("RGB", (9, 9)), "PNG", pnginfo=text),
        "PNG with a profile of 20 MB": encoded(Image.new("RGB", (9, 9)), "PNG", icc_profile=profile),
        "JPEG with much EXIF": encoded(grey, "JPEG", exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff" + b"\1" * 65_000),
        "PNG cut off": large_png()[:2000],
        "PNG of 30,000 chunks": _with_chunks(large_png(64), 30_000),
        "PPM of one column": b"P6 1 40000000 255\n" + bytes(1_000_000),
    }


def _with_chunks(png: bytes, number: int) -> bytes:
    chunk = b"\0\0\0\1tEXtx" + zlib.crc32(b"tEXtx").to_bytes(4, "big")
    return png[:33] + chunk * number + png[33:]
