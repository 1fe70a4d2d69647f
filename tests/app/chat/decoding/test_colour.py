"""Colour profiles: the picture that page and model get has sRGB's colours, whatever numbers the file has."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from app.chat.decoding.decode import decode
from tests.app.chat.decoding import profiles
from tests.app.helpers import encode

RED, GREEN = (220, 40, 40), (40, 220, 40)


def decoded(image: Image.Image, profile: bytes | None, kind: str = "PNG", **options: object) -> np.ndarray:
    if profile is not None:
        options["icc_profile"] = profile
    return np.asarray(decode(encode(image, kind, **options)).image).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_the_profile_says_what_the_numbers_mean(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decoded(Image.new("RGB", (16, 16), GREEN), profiles.swapped(), kind, **options)
    assert pixels[8, 8] == pytest.approx(RED, abs=8)


def test_display_p3_becomes_stronger_colours_of_srgb() -> None:
    """As Chromium shows it: 241, 0, 13."""
    assert decoded(Image.new("RGB", (4, 4), RED), profiles.display_p3())[0, 0] == pytest.approx((241, 0, 13), abs=4)


@pytest.mark.parametrize("profile", [None, b"", b"no profile", profiles.swapped()[:200], profiles.grey_profile(1.0)])
def test_without_a_usable_profile_nothing_changes(profile: bytes | None) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert (decoded(Image.fromarray(noise), profile) == noise).all()


def test_pictures_in_srgb_stay_bit_for_bit() -> None:
    """Converting them would change some values by one, and with them what the model gets."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    library = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (decoded(Image.fromarray(noise), library) == noise).all()


def test_grey_pictures_have_profiles_too() -> None:
    linear = decoded(Image.new("L", (4, 4), 55), profiles.grey_profile(1.0))[0, 0]
    assert linear == pytest.approx((128, 128, 128), abs=2)  # 55 of 255 as light is 128 in sRGB


def test_cmyk_is_converted_by_its_profile() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert decoded(cyan, profiles.cmyk_profile(), "TIFF")[4, 4] == pytest.approx((255, 0, 0), abs=12)
    assert decoded(cyan, None, "TIFF")[4, 4] == pytest.approx((0, 255, 255), abs=1)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_opacity_is_kept(mode: str) -> None:
    image = Image.new("RGBA", (4, 1), (*GREEN, 255))
    image.putpixel((1, 0), (*GREEN, 0))
    pixels = decoded(image.convert(mode), profiles.swapped())
    assert pixels[0, 0] == pytest.approx(RED, abs=8)
    assert tuple(pixels[0, 1]) == (255, 255, 255)


def test_a_picture_taller_than_a_strip_is_converted_everywhere() -> None:
    pixels = decoded(Image.new("RGB", (3, 1000), GREEN), profiles.swapped())
    assert np.unique(pixels.reshape(-1, 3), axis=0).shape == (1, 3)


def test_the_browser_is_not_given_what_it_would_show_otherwise() -> None:
    image = Image.new("RGB", (4, 4), GREEN)
    assert decode(encode(image)).shows_alike
    assert not decode(encode(image, icc_profile=profiles.swapped())).shows_alike
    assert not decode(encode(image, "TIFF")).shows_alike
