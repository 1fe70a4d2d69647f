"""A JPEG's scans are counted before anything is decoded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from app.chat.decoding import decode as decoding
from app.chat.decoding.decode import DecodeError, decode
from app.chat.decoding.scans import count_scans
from tests.app.chat.decoding.bombs import with_scans
from tests.app.helpers import encode

PICTURE = Image.linear_gradient("L").convert("RGB")


def test_usual_files() -> None:
    assert count_scans(encode(PICTURE, "JPEG")) == (1, False)
    count, is_progressive = count_scans(encode(PICTURE, "JPEG", progressive=True))
    assert is_progressive
    assert 5 <= count <= 12
    assert count_scans(encode(PICTURE)) == (0, False)


def test_a_thumbnail_inside_is_not_counted() -> None:
    exif = Image.Exif()
    exif[0x010E] = encode(PICTURE, "JPEG", progressive=True).decode("latin1")
    assert count_scans(encode(PICTURE, "JPEG", exif=exif)) == (1, False)


def test_too_many_scans_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = count_scans(with_scans(0))[0]
    assert decode(with_scans(decoding.MAX_SCANS - usual)).image.size == (64, 64)
    bomb = with_scans(decoding.MAX_SCANS + 1 - usual)
    monkeypatch.setattr(JpegImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DecodeError, match=r"has 101 scans; the limit is 100"):
        decode(bomb)


@given(st.binary(max_size=400))
def test_any_bytes_are_counted(data: bytes) -> None:
    assert count_scans(b"\xff\xd8" + data)[0] >= 0


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\xe1\0\x0aExif\0\0MM", b"\xff\xfe\0\2", b"\xff\1", b"x\xff\1"])
def test_too_many_markers_are_refused_before_pillow_looks_at_them(
    filling: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.5 million of them took 20 s, until the process was ended; 400 of 64 KB are what a file of 25 MB may need."""
    jpeg = encode(PICTURE, "JPEG")
    monkeypatch.setattr(decoding, "_open", lambda data: pytest.fail("opened"))
    with pytest.raises(DecodeError, match="has more than 1000 parts"):
        decode(jpeg[:2] + filling * 1001 + jpeg[2:])


def test_the_parts_of_a_large_profile_are_let_through() -> None:
    jpeg = encode(PICTURE, "JPEG")
    part = b"\xff\xed" + (1000).to_bytes(2, "big") + bytes(998)
    assert decode(jpeg[:2] + part * 400 + jpeg[2:]).image.size == PICTURE.size
