"""Small files that are a lot of work."""

from __future__ import annotations

import struct

from PIL import Image

from tests.app.helpers import encode

_EMPTY_SCAN = bytes([0xFF, 0xDA, 0, 8, 1, 1, 0, 1, 63, 0])  # one component, all but its mean, nothing new


def with_scans(more: int, side: int = 64) -> bytes:
    """A valid progressive JPEG with `more` scans after the usual ones; each goes over the whole picture."""
    data = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    end = data.rindex(b"\xff\xd9")
    return data[:end] + _EMPTY_SCAN * more + data[end:]


def tiled_avif(rows: int, columns: int, *, claims: tuple[int, int] | None = None, side: int = 64) -> bytes:
    """A grid of tiles, all of which are the same bytes; its header says that it is as large as `claims`.

    Source: ISO/IEC 23008-12, 6.6.2.3, and the boxes of ISO/IEC 14496-12, 8.11.
    """
    tile = encode(Image.new("RGB", (side, side), (255, 0, 0)), "AVIF")
    setting, data = _box_in(tile, b"av1C"), _box_in(tile, b"mdat")[8:]
    count, size = rows * columns, (side * columns, side * rows)
    tiles = range(2, count + 2)
    grid = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, *size)
    entries = [_full(b"infe", 2, struct.pack(">HH4s", 1, 0, b"grid"), b"\0")]
    entries += [_full(b"infe", 2, struct.pack(">HH4s", item, 0, b"av01"), b"\0") for item in tiles]
    parts = struct.pack(f">HH{count}H", 1, count, *tiles)
    spatial = [_full(b"ispe", 0, struct.pack(">II", *one)) for one in ((side, side), claims or size)]
    depths = _full(b"pixi", 0, bytes([3, 8, 8, 8]))
    owned = [struct.pack(">HBBB", 1, 2, 3, 4), *(struct.pack(">HBBBB", item, 3, 0x81, 2, 4) for item in tiles)]
    associations = _full(b"ipma", 0, struct.pack(">I", count + 1), *owned)
    head = _box(b"ftyp", b"avif", bytes(4), b"mif1", b"avif")

    def meta(offset: int) -> bytes:
        places = [struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(grid))]  # in idat; the tiles are in mdat
        places += [struct.pack(">HHHHII", item, 0, 0, 1, offset, len(data)) for item in tiles]
        return _full(
            b"meta",
            0,
            _full(b"hdlr", 0, bytes(4), b"pict", bytes(13)),
            _full(b"pitm", 0, struct.pack(">H", 1)),
            _full(b"iloc", 1, struct.pack(">HH", 0x4400, count + 1), *places),
            _full(b"iinf", 0, struct.pack(">H", count + 1), *entries),
            _full(b"iref", 0, _box(b"dimg", parts)),
            _box(b"iprp", _box(b"ipco", setting, *spatial, depths), associations),
            _box(b"idat", grid),
        )

    return head + meta(len(head) + len(meta(0)) + 8) + _box(b"mdat", data)


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full(kind: bytes, version: int, *content: bytes) -> bytes:
    return _box(kind, bytes([version, 0, 0, 0]), *content)


def _box_in(file: bytes, kind: bytes) -> bytes:
    """The first box of this kind, with its head."""
    start = file.index(kind) - 4
    return file[start : start + int.from_bytes(file[start : start + 4], "big")]
