"""Whatever a user uploads as one upright sRGB picture of 8 bits, or a DecodeError that says what is wrong with it.

It runs in a process of its own (worker.py), as decoders are large programs in C that are fed by strangers here.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.util import find_spec

from PIL import Image, UnidentifiedImageError

from app.chat.decoding.colour import Conversion, conversion_to_srgb
from app.chat.decoding.depth import ROWS, colour_to_8_bit, grey_to_8_bit, sixteen_bit_layout
from app.chat.decoding.scans import MAX_STEPS, TooManyMarkers, count_scans

# What is kept of a picture: the model, the page, saved and printed pictures all get this one (docs/decisions/page.md).
WORKING_PIXELS = 3072 * 3072

MAX_PIXELS = 50_000_000
MAX_JPEG_PIXELS = 300_000_000  # JPEGs can be decoded at half, a quarter or an eighth of their size
MAX_PROGRESSIVE_PIXELS = 110_000_000  # all of their coefficients are held, at 3 to 6 bytes a pixel
MAX_SCANS = 100  # of a progressive JPEG; cameras and programs write about ten
MAX_PIECES = 100_000  # of a TIFF; a picture of 50 megapixels in lines of its own has some ten thousand
MAX_TILES = 1000  # of an AVIF or HEIC; cameras write 200. Its header may promise less than the tiles decode to
MAX_COMMENTS = 1000  # of a PPM written as text: Pillow takes the square of their number

# Decoders that only read pixels. Pillow's others may start programs (EPS runs Ghostscript) or are rarely maintained.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF", "HEIF")
IN_BROWSERS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "ICO", "AVIF")
ADVICE = "Use a PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF or HEIC file."
INSTALL_HEIC = "pip install pillow-heif"
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# How files of these formats begin; in those with "ftyp" or "WEBP" a length or two come first.
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"P", b"\0\0\1\0")

_UPRIGHT = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THEIR_SIDE = (5, 6, 7, 8)
_ORIENTATION = 0x0112


class DecodeError(Exception):
    """A file is no usable picture. The message goes on from the file's name: "is not an image …"."""


@dataclass(frozen=True)
class Decoded:
    """A picture in mode RGB, with what its file was.

    `original_size`: width and height of the whole picture, upright. `shows_alike`: a browser that is given the file
    itself shows the same.
    """

    image: Image.Image
    original_size: tuple[int, int]
    shows_alike: bool


def decode(data: bytes) -> Decoded:
    """The picture in a file: its first frame, upright, sRGB, on white, and of at most WORKING_PIXELS.

    Raises DecodeError for what is not a picture, is cut off, or is too large.
    """
    Image.MAX_IMAGE_PIXELS = None  # the limits here are lower, and differ by format
    try:
        scans, is_progressive = _check_before_opening(data)
        with _open(data) as image:
            _check_cost(image, scans, is_progressive=is_progressive)
            whole_size = _reduce_while_decoding(image)
            layout = sixteen_bit_layout(image)
            image.load()
            kind, orientation, original_size = image.format, _orientation(image), whole_size or image.size
            if layout is not None:
                with _open(data) as again:
                    bright = colour_to_8_bit(image, again, layout)
                bright.info = image.info
            else:
                bright = image
            rgb, is_as_it_was = to_srgb(bright)
    except DecodeError:
        raise
    except UnidentifiedImageError as error:
        raise DecodeError(_unknown(data)) from error
    except MemoryError as error:
        raise DecodeError("needs too much memory to be read. Scale it down and upload it again.") from error
    except Exception as error:  # decoders raise whatever comes to them; here it always means this
        raise DecodeError(f"is damaged or cut off. Save or download it again. {ADVICE}") from error
    is_as_it_was &= bright is image and rgb.width * rgb.height <= WORKING_PIXELS
    if orientation in _ON_THEIR_SIDE:
        original_size = original_size[1], original_size[0]
    return Decoded(_turned(_reduced(rgb), orientation), original_size, is_as_it_was and kind in IN_BROWSERS)


def begins_as_picture(data: bytes) -> bool:
    """Whether the first bytes are those of one of FORMATS, installed or not."""
    return data.startswith(_BEGINNINGS) or data[4:8] == b"ftyp" or (data[:4], data[8:12]) == (b"RIFF", b"WEBP")


def to_srgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """A loaded picture as 8-bit sRGB with transparent parts white; False if its colours had to be converted for that.

    Colours without a profile, and those whose profile is sRGB, stay as they are, bit for bit.
    """
    profile = image.info.get("icc_profile")
    is_as_it_was = image.mode != "CMYK"  # browsers take CMYK without a profile each in their own way
    if image.mode.startswith(("I", "F")):
        image, is_as_it_was = grey_to_8_bit(image), False
    if image.mode in ("CMYK", "L"):
        convert = conversion_to_srgb(profile, image.mode)
        if convert is not None and "transparency" not in image.info:
            return _by_rows(image, convert), False
    convert = conversion_to_srgb(profile, "RGB")
    is_as_it_was &= convert is None
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _by_rows(image.convert("RGBA"), lambda rows: _on_white(rows, convert)), is_as_it_was
    rgb = image.convert("RGB")
    return (rgb if convert is None else _by_rows(rgb, convert)), is_as_it_was


def _on_white(rgba: Image.Image, convert: Conversion | None) -> Image.Image:
    if convert is not None:
        colours, opacity = convert(rgba.convert("RGB")), rgba.getchannel("A")
        rgba = colours.convert("RGBA")
        rgba.putalpha(opacity)
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _by_rows(image: Image.Image, convert: Conversion) -> Image.Image:
    """The RGB picture that a conversion makes of an image, a strip at a time: whole copies between would be large."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, ROWS):
        rows = image.crop((0, top, image.width, min(top + ROWS, image.height)))
        result.paste(convert(rows), (0, top))
    return result


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=_formats())


def _formats() -> list[str]:
    """FORMATS that are installed; asking Pillow for another is an error."""
    if "HEIF" not in Image.OPEN and has_heic():
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1
        pillow_heif.register_heif_opener()
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def has_heic() -> bool:
    """Whether the extra package for HEIC pictures is installed."""
    return find_spec("pillow_heif") is not None


def _check_before_opening(data: bytes) -> tuple[int, bool]:
    """As `count_scans`. Raises DecodeError for a file of so many parts that it would take long to look through them."""
    if data.startswith((b"P1", b"P2", b"P3")) and (number := data.count(b"#")) > MAX_COMMENTS:
        raise DecodeError(f"has {number} comments; the limit is {MAX_COMMENTS}. Save it anew as a PNG.")
    if data[4:8] == b"ftyp" and (number := data.count(b"infe")) > MAX_TILES:  # each tile is an item with an entry
        raise DecodeError(f"is in {number} pieces; the limit is {MAX_TILES}. Save it anew as a JPEG.")
    try:
        return count_scans(data)
    except TooManyMarkers:
        raise DecodeError(f"has more than {MAX_STEPS} parts. Save it anew as an ordinary JPEG.") from None


def _check_cost(image: Image.Image, scans: int, *, is_progressive: bool) -> None:
    """Raise DecodeError for a picture that would take too much memory or time."""
    width, height = image.size
    limit, what = MAX_PIXELS, ""
    if (pieces := len(getattr(image, "tile", ()))) > MAX_PIECES:
        raise DecodeError(f"is in {pieces} pieces; the limit is {MAX_PIECES}. Save it anew as a PNG.")
    if image.format in ("JPEG", "MPO"):
        if scans > MAX_SCANS:
            raise DecodeError(f"has {scans} scans; the limit is {MAX_SCANS}. Save it anew as an ordinary JPEG.")
        limit, what = MAX_JPEG_PIXELS, " for JPEG"
        if is_progressive:
            limit, what = MAX_PROGRESSIVE_PIXELS, " for progressive JPEG"
    if width * height > limit:
        raise DecodeError(
            f"is too large ({width} x {height}): the limit{what} is {limit // 1_000_000} megapixels. "
            "Scale it down and upload it again."
        )


def _reduce_while_decoding(image: Image.Image) -> tuple[int, int] | None:
    """Have a JPEG above MAX_PIXELS decoded at a half of its size, a quarter or an eighth; its whole size, or None.

    What comes out is still larger than what is kept, so that the last step down is a careful one.
    """
    width, height = image.size
    if width * height <= MAX_PIXELS:
        return None
    scale = 1.2 * (WORKING_PIXELS / (width * height)) ** 0.5
    image.draft(None, (int(width * scale), int(height * scale)))
    return width, height


def _reduced(image: Image.Image) -> Image.Image:
    """At most WORKING_PIXELS of a picture; itself if it has no more."""
    scale = (WORKING_PIXELS / (image.width * image.height)) ** 0.5
    if scale >= 1:
        return image
    width, height = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    size = (
        min(width, WORKING_PIXELS),
        min(height, WORKING_PIXELS),
    )  # of a line one pixel wide no side can shrink further
    return image.resize(size, Image.Resampling.LANCZOS)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF data says nothing about the pixels; the picture is used as it is
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _unknown(data: bytes) -> str:
    """What to say of a file that none of the decoders knows."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS and not has_heic():
        return (
            "is a HEIC picture, which takes one more package on the server "
            f"({INSTALL_HEIC}). Or save it as JPEG and upload that."
        )
    return f"is not an image that can be read. {ADVICE}"
