"""Values of more than 8 bits: bright where the file is bright, and never black because a camera delivers 12 bits."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.chat.decoding.decode import decode
from app.chat.decoding.depth import grey_to_8_bit, white
from tests.app.helpers import encode


def png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits per value; Pillow writes those in grey only. values: [height, width, 3 or 4] uint16."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, bands = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[bands], 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("top", "bits"), [(3, 8), (255, 8), (256, 10), (1000, 10), (4095, 12), (4096, 16), (65535, 16)]
)
def test_white_is_that_of_the_least_bits_that_hold_the_values(top: int, bits: int) -> None:
    assert white(top) == 2**bits - 1


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_fewer_bits_in_a_16_bit_file(bits: int, kind: str) -> None:
    most = 2**bits - 1
    values = np.array([[0, most // 2, most]], dtype=np.uint16)
    pixels = np.asarray(decode(encode(Image.fromarray(values), kind)).image)
    assert pixels[0, :, 0].tolist() == pytest.approx([0, 127, 255], abs=1)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("bands", [3, 4])
def test_colours_of_fewer_bits_in_a_16_bit_file(bits: int, bands: int) -> None:
    most = 2**bits - 1
    values = np.zeros((300, 2, bands), dtype=np.uint16)
    values[:, 0, :3], values[:, 1, :3] = (most, most // 2, 0), (0, most // 4, most)
    values[:, :, 3:] = 65535
    pixels = np.asarray(decode(png(values)).image)
    assert pixels[299, 0].tolist() == pytest.approx([255, 127, 0], abs=1)
    assert pixels[0, 1].tolist() == pytest.approx([0, 63, 255], abs=1)


def test_a_dark_picture_of_8_bits_stays_dark() -> None:
    assert np.asarray(decode(encode(Image.new("RGB", (4, 4), (9, 5, 1)))).image)[0, 0].tolist() == [9, 5, 1]


@given(st.lists(st.integers(0, 65535), min_size=2, max_size=30))
def test_brighter_stays_brighter(values: list[int]) -> None:
    pixels = np.asarray(grey_to_8_bit(Image.fromarray(np.array([values], dtype=np.uint16))))[0].astype(int)
    order = np.argsort(values, kind="stable")
    assert (np.diff(pixels[order]) >= 0).all()
    assert pixels.max() >= 16 or max(values) < 256  # never black because of the bits
