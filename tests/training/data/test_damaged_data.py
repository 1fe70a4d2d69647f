"""Whatever stands in an annotation file or a picture, and wherever it was cut: one line, or another example instead."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.training.data.small_data import CASES, COCO, FirstOf, Place, open_reader, write
from tests.training.tiny_stages import draw_pictures
from training.data.annotations import DataError
from training.data.readers import MissingImage, open_image

STRANGE: tuple[Any, ...] = (
    float("nan"),
    float("inf"),
    -1e308,
    10**400,
    -1,
    "",
    "\x00",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [None],
    None,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the pictures of all cases."""
    draw_pictures(tmp_path, [COCO, "9.jpg", "9.png", "image/9.jpg", "VG_100K/9.jpg"])
    return tmp_path


def places_of(content: Any, place: Place = ()) -> Iterator[Place]:
    """The places of all values inside of a file's content."""
    members = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for step, value in members:
        yield (*place, step)
        yield from places_of(value, (*place, step))


def use(name: str, folder: Path) -> str:
    """What training and `training.prepare` do with the first example; the message if it ends in an expected error."""
    try:
        reader = open_reader(name, folder)
        if len(reader):
            reader.check(0)
            reader.image_paths(0)
            reader.has_image(0)
            reader.example(0, FirstOf())
    except (DataError, MissingImage) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", CASES)
def test_no_value_ends_in_anything_but_one_line(name: str, folder: Path) -> None:
    """Numbers that are none, names that no file can have, empty things, in place of every value of every file."""
    num_refused = 0
    for file, content in CASES[name].files.items():
        for place in places_of(content):
            for value in STRANGE:
                files = copy.deepcopy(CASES[name].files)
                holder = files[file]
                for step in place[:-1]:
                    holder = holder[step]
                holder[place[-1]] = value
                write(folder, files)
                message = use(name, folder)
                assert "\n" not in message, (place, value)
                num_refused += bool(message)
    assert num_refused > 10


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_was_cut_or_altered_is_one_line(name: str, folder: Path) -> None:
    draw = Random(0)
    for file in CASES[name].files:
        write(folder, CASES[name].files)
        whole = (folder / file).read_bytes()
        for size in range(0, len(whole) - 3, 9):
            (folder / file).write_bytes(whole[:size])
            assert re.fullmatch(re.escape(str(folder / file)) + ".*(line|pickle).*", use(name, folder)), size
        for content in (b"[" * 100_000, b"\xff\xfe", *(altered(whole, draw) for _ in range(60))):
            (folder / file).write_bytes(content)
            assert "\n" not in use(name, folder), content[:1000]


def altered(content: bytes, draw: Random) -> bytes:
    """With another byte at one place."""
    changed = bytearray(content)
    changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "ppm"])
def test_a_picture_that_was_cut_or_altered_is_a_missing_one(kind: str, tmp_path: Path) -> None:
    """Pillow raises many things for them; a run goes on with another example."""
    draw_pictures(tmp_path, [f"whole.{kind}"])
    whole = (tmp_path / f"whole.{kind}").read_bytes()
    draw = Random(0)
    for _ in range(300):
        head = altered(whole[: draw.randrange(1, len(whole) + 1)], draw)
        (tmp_path / f"x.{kind}").write_bytes(altered(head[:60], draw) + head[60:])
        with suppress(MissingImage):
            assert open_image(tmp_path / f"x.{kind}").mode == "RGB"
    (tmp_path / f"x.{kind}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MissingImage, match=f"x.{kind}: "):
        open_image(tmp_path / f"x.{kind}")


def test_a_name_that_no_file_can_have_is_a_missing_picture() -> None:
    for name in ("\x00", "\ud800", "x" * 5000):
        with pytest.raises(MissingImage):
            open_image(Path(name))
