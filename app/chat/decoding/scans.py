"""What a JPEG costs before any of it is decoded: each of its scans may go over the whole picture once more."""

from __future__ import annotations

import re

MAX_STEPS = 1000  # from marker to marker; a profile and other data of 25 MB in the largest pieces are 400

_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the next marker; stuffed bytes and restarts belong to the scan
_WITHOUT_LENGTH = (*range(0xD0, 0xD9), 0x01)
_START_OF_SCAN, _END = 0xDA, 0xD9
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)


class TooManyMarkers(Exception):
    """A JPEG of more than MAX_STEPS. Pillow takes the square of their number in time, a fraction of a second for each
    thousand."""


def count_scans(data: bytes) -> tuple[int, bool]:
    """How many scans a JPEG has, and whether it is progressive; (0, False) for other files. Raises TooManyMarkers.

    Source: ITU-T T.81, B.1 and B.2.
    """
    scans, is_progressive = 0, False
    if not data.startswith(b"\xff\xd8"):
        return 0, False
    place, steps = 2, 0
    while place + 4 <= len(data):
        steps += 1
        if steps > MAX_STEPS:
            raise TooManyMarkers
        if data[place] != 0xFF:  # not a marker: a decoder looks for the next one, too
            found = _IN_SCAN.search(data, place)
            if found is None:
                break
            place = found.start()
            continue
        marker = data[place + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            place += 1 if marker == 0xFF else 2
            continue
        if marker == _END:
            break
        is_progressive |= marker in _PROGRESSIVE
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _START_OF_SCAN:
            scans += 1
            found = _IN_SCAN.search(data, place)
            place = found.start() if found else len(data)
    return scans, is_progressive
