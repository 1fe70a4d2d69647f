"""Decoding: every odd file becomes an upright sRGB picture or one clear line."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from app.chat.decoding import decode as decoding
from app.chat.decoding.decode import MAX_PIXELS, DecodeError, decode
from tests.app.chat.decoding.bombs import tiled_avif
from tests.app.helpers import encode

RED = (255, 0, 0)


def empty_png(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds no pixels: decoding it would fail, reading its header does not."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def pixel(data: bytes, x: int = 0, y: int = 0) -> tuple[int, ...]:
    picture = decode(data).image
    assert picture.mode == "RGB"
    found = picture.getpixel((x, y))
    assert isinstance(found, tuple)
    return tuple(int(value) for value in found)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_usual_formats(kind: str) -> None:
    assert np.allclose(pixel(encode(Image.new("RGB", (8, 8), RED), kind), 4, 4), RED, atol=8)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"%PDF-1.7 ...", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a"],
)
def test_not_an_image(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"not an image|damaged"):
        decode(data)


def test_a_file_of_too_many_parts_is_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 million comments took 20 s, and 3 million pieces of a TIFF 12 s and a gigabyte."""
    lines = encode(Image.new("L", (1, 300)), "TIFF", tiffinfo={278: 1})
    monkeypatch.setattr(TiffImageFile, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(decoding, "MAX_PIECES", 299)
    with pytest.raises(DecodeError, match="is in 300 pieces; the limit is 299"):
        decode(lines)
    with pytest.raises(DecodeError, match="has 1001 comments; the limit is 1000"):
        decode(b"P3 9 9 255\n" + b"#x\n" * 1001)


def test_a_picture_of_tiles_may_have_as_many_as_cameras_write() -> None:
    """What says that it is of 100 x 100 pixels, in 40,000 tiles of 64 x 64, took 8 s and 1.3 GiB."""
    assert decode(tiled_avif(2, 3)).image.size == (192, 128)
    with pytest.raises(DecodeError, match="is in 1025 pieces; the limit is 1000"):
        decode(tiled_avif(32, 32, claims=(100, 100)))


def test_postscript_is_refused() -> None:
    """Pillow would start Ghostscript for it."""
    with pytest.raises(DecodeError, match="not an image"):
        decode(encode(Image.new("RGB", (8, 8)), "EPS"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(DecodeError, match=r"damaged or cut off|not an image"):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (10_000, 10_000), (8_000, 7_000), (100_000, 501)])
def test_too_large_is_refused_by_its_header(width: int, height: int) -> None:
    with pytest.raises(DecodeError, match=r"too large.*50 megapixels"):
        decode(empty_png(width, height))


def test_the_limit_itself_is_not_refused() -> None:
    with pytest.raises(DecodeError, match="damaged"):  # it got as far as decoding
        decode(empty_png(MAX_PIXELS // 5000, 5000))


def test_cmyk() -> None:
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    assert np.allclose(pixel(data, 4, 4), RED, atol=8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    picture = np.asarray(decode(encode(Image.fromarray(values), kind)).image)
    assert picture[0, :, 0].tolist() == pytest.approx([0, 127, 255], abs=1)


def test_float_grey_is_scaled() -> None:
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    picture = np.asarray(decode(encode(Image.fromarray(values), "TIFF")).image)
    assert picture[0, :, 1].tolist() == pytest.approx([0, 127, 255], abs=1)


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        (np.array([[0, 100_000, 200_000]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 128, 255]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 500, 1000]], dtype=np.float32), [0, 128, 255]),
        (np.array([[np.nan, 0.5, 1]], dtype=np.float32), [0, 128, 255]),
    ],
)
def test_wider_grey_is_scaled_by_its_brightest_pixel(values: np.ndarray, grey: list[int]) -> None:
    picture = np.asarray(decode(encode(Image.fromarray(values), "TIFF")).image)
    assert picture[0, :, 0].tolist() == pytest.approx(grey, abs=1)


def test_palette_with_transparency_lies_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    data = encode(image, transparency=1)
    assert pixel(data, 0) == RED
    assert pixel(data, 1) == (255, 255, 255)


def test_partly_transparent_pixels_are_mixed_with_white() -> None:
    assert pixel(encode(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))) == pytest.approx((255, 127, 127), abs=1)
    assert pixel(encode(Image.new("LA", (2, 2), (0, 0)))) == (255, 255, 255)


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "blue")
    image.paste(RED, (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture = decode(encode(image, "PNG", exif=exif)).image
    assert picture.size == (10, 20)
    assert picture.getpixel((5, 2)) == RED
    assert picture.getpixel((5, 17)) == (0, 0, 255)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animated_shows_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert np.allclose(pixel(data, 4, 4), RED, atol=8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LAB", "I"])
def test_other_modes(mode: str) -> None:
    image = Image.new(mode, (4, 4))
    assert decode(encode(image, "TIFF")).image.mode == "RGB"
