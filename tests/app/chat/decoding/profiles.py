"""Colour profiles made by hand (ICC.1:2001-04), as no library makes others than sRGB."""

from __future__ import annotations

import itertools
import struct

D50 = (0.9642, 1.0, 0.8249)
SRGB_RED, SRGB_GREEN, SRGB_BLUE = (0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
P3_RED, P3_GREEN, P3_BLUE = (0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)


def display_p3() -> bytes:
    """Wider primaries than sRGB's, as iPhones write it; gamma 2.2."""
    return rgb_profile(P3_RED, P3_GREEN, P3_BLUE)


def swapped() -> bytes:
    """sRGB's primaries with red and green changed over: whoever ignores it sees the wrong colours."""
    return rgb_profile(SRGB_GREEN, SRGB_RED, SRGB_BLUE)


def rgb_profile(red: tuple[float, ...], green: tuple[float, ...], blue: tuple[float, ...]) -> bytes:
    colours = {b"rXYZ": _xyz(red), b"gXYZ": _xyz(green), b"bXYZ": _xyz(blue)}
    return _profile(b"RGB ", b"XYZ ", colours | {name: _gamma(2.2) for name in (b"rTRC", b"gTRC", b"bTRC")})


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": _gamma(gamma)})


def cmyk_profile() -> bytes:
    """A press whose cyan ink is red; the others do nothing but darken."""
    red, white, black = (137, 209, 195), (255, 128, 128), (0, 128, 128)  # Lab, 8 bits each
    corners = itertools.product((0, 1), repeat=4)  # the first ink changes slowest
    table = [black if key else red if cyan else white for cyan, _, _, key in corners]
    ramp = bytes(range(256))
    head = struct.pack(">4sIBBBx9i", b"mft1", 0, 4, 3, 2, *(65536 * (i % 4 == 0) for i in range(9)))
    return _profile(b"CMYK", b"Lab ", {b"A2B0": head + ramp * 4 + bytes(itertools.chain(*table)) + ramp * 3}, b"prtr")


def _profile(space: bytes, between: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    name = b"made\0"
    usual = {
        b"desc": struct.pack(">4sII", b"desc", 0, len(name)) + name + bytes(4 + 4 + 2 + 1 + 67),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": _xyz(D50),
    }
    tags = usual | tags
    place, body, table = 128 + 4 + 12 * len(tags), b"", b""
    for tag, data in tags.items():
        data += bytes(-len(data) % 4)
        table += tag + struct.pack(">II", place + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4sI4s4s4s12s4s", place + len(body), bytes(4), 0x02100000, kind, space, between, bytes(12), b"acsp"
    )
    head += bytes(28) + b"".join(_fixed(value) for value in D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(value) for value in values)


def _gamma(value: float) -> bytes:
    return struct.pack(">4sIIH2x", b"curv", 0, 1, round(value * 256))
