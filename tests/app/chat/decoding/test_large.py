"""Large pictures: what is kept of them is bounded, and phone photos of 108 megapixels are read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from app.chat.decoding import decode as decoding
from app.chat.decoding.decode import WORKING_PIXELS, DecodeError, decode
from tests.app.helpers import encode, scene


def test_up_to_the_bound_a_picture_is_kept_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise))
    monkeypatch.setattr(decoding, "WORKING_PIXELS", 3000)
    assert (np.asarray(decode(data).image) == noise).all()
    monkeypatch.setattr(decoding, "WORKING_PIXELS", 2999)
    assert decode(data).image.size == (49, 59)


@example(width=1, height=4, limit=1)
@given(width=st.integers(1, 4000), height=st.integers(1, 4000), limit=st.integers(1, 3000))
@settings(max_examples=30, deadline=None)
def test_what_is_kept_is_bounded_and_keeps_its_shape(width: int, height: int, limit: int) -> None:
    image = Image.new("L", (width, height), 200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "WORKING_PIXELS", limit)
        kept = decoding._reduced(image)
    assert 0 < kept.width * kept.height <= limit
    if min(kept.size) > 20:
        assert kept.width / kept.height == pytest.approx(width / height, rel=0.06)


def test_a_large_photo_is_scaled_while_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """108 megapixels, as phones write them; the whole picture would take 432 MB."""
    data = encode(scene().resize((12_000, 9_000)), "JPEG")
    sizes = []
    load = JpegImageFile.load

    def recorded(image: JpegImageFile) -> object:
        loaded = load(image)
        sizes.append(image.size)
        return loaded

    monkeypatch.setattr(JpegImageFile, "load", recorded)
    decoded = decode(data)
    assert set(sizes) == {(6000, 4500)}
    assert decoded.original_size == (12_000, 9_000)
    assert 0.99 * WORKING_PIXELS < decoded.image.width * decoded.image.height <= WORKING_PIXELS
    assert decoded.image.resize((200, 100)).getpixel((150, 60)) == pytest.approx((40, 60, 200), abs=4)
    assert not decoded.shows_alike  # the browser would decode it all


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_the_size_of_the_file_is_that_of_the_upright_picture(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "WORKING_PIXELS", 5000)
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(encode(scene(), kind, exif=exif))
    assert decoded.original_size == (100, 200)
    assert decoded.image.size == (50, 100)


@pytest.mark.parametrize(("progressive", "megapixels"), [(False, 300), (True, 110)])
def test_jpegs_have_limits_too(progressive: bool, megapixels: int) -> None:
    data = bytearray(encode(scene(), "JPEG", progressive=progressive))
    start = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[start + 5 : start + 9] = (20_000).to_bytes(2, "big") * 2
    with pytest.raises(DecodeError, match=rf"too large \(20000 x 20000\): the limit.* {megapixels} megapixels"):
        decode(bytes(data))
