"""Webdataset shards with random access: an epoch that can be entered at any place.

The original reads shards drawn with replacement and shuffles within 1000 samples. Here sample k of the stream is the
same for ever: block k // 1000 is a shard drawn at random, k % 1000 a place in a random order of that shard. Both come
from the number k alone, so a resumed run goes on where it was without reading what it has had.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from functools import lru_cache
from pathlib import Path
from random import Random

from PIL import Image

from training.data.annotations import Annotation, DataError
from training.data.readers import decode_image

BLOCK = 1000  # samples taken from a shard before the next is drawn; the original's shuffle buffer
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
_SHARD_SEED = 20_231_013  # any fixed number: which shards are drawn must not depend on the training step's generator

Span = tuple[int, int]  # offset and size in the file


class Shards:
    """The stream of samples in the shards that a pattern like `folder/{00000..01255}.tar` names.

    Shards that are not on this machine are left out. Raises DataError if there is none at all.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.paths = [path for path in expand_braces(pattern) if path.is_file()]
        self.num_missing = len(expand_braces(pattern)) - len(self.paths)
        if not self.paths:
            raise DataError(f"{pattern}: none of its {self.num_missing} shards is there; set `annotations` to yours.")

    def __len__(self) -> int:
        """Length of the stream, one block per shard; longer runs go on with new draws."""
        return BLOCK * len(self.paths)

    def path_of(self, index: int) -> Path:
        """The shard that sample `index` of the stream comes from."""
        return Random(f"{_SHARD_SEED}-{index // BLOCK}").choice(self.paths)

    def sample(self, index: int, rng: Random) -> tuple[Image.Image, Annotation]:
        """Picture and JSON of a sample. Raises MissingImage or DataError."""
        path = self.path_of(index)
        names, members = index_shard(path)
        if not names:
            raise DataError(f"{path} holds no samples with a picture and a json; is it a webdataset shard?")
        order = Random(f"{_SHARD_SEED}-{index // BLOCK}-order").sample(range(len(names)), len(names))
        name = names[order[index % BLOCK % len(names)]]
        del rng  # nothing here is left to chance
        spans = members[name]
        with path.open("rb") as file:
            suffix = next(suffix for suffix in _IMAGE_SUFFIXES if suffix in spans)
            picture, text = (_read(file, spans[part]) for part in (suffix, "json"))
        where = f"{path}: {name}.json"
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON; make the shard again.") from error
        return decode_image(io.BytesIO(picture), f"{path}: {name}.{suffix}"), Annotation(values, lambda: where)


def _read(file: io.BufferedReader, span: Span) -> bytes:
    offset, size = span
    file.seek(offset)
    return file.read(size)


@lru_cache(maxsize=64)
def index_shard(path: Path) -> tuple[list[str], dict[str, dict[str, Span]]]:
    """Names of the samples that have a picture and a JSON, and where each part lies; reads the headers only."""
    members: dict[str, dict[str, Span]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile():
                    stem, _, suffix = member.name.rpartition("/")[2].partition(".")
                    members.setdefault(stem, {})[suffix.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path} is not a readable tar file ({error}); make or download it again.") from error
    names = [
        name
        for name, parts in sorted(members.items())
        if "json" in parts and any(suffix in parts for suffix in _IMAGE_SUFFIXES)
    ]
    return names, members


def expand_braces(pattern: str) -> list[Path]:
    """`a/{000..002}.tar` -> a/000.tar, a/001.tar, a/002.tar; a pattern without braces is one path."""
    match = _BRACES.search(pattern)
    if match is None:
        return [Path(pattern)]
    width = len(match[1])
    numbers = range(int(match[1]), int(match[2]) + 1)
    return [
        path
        for n in numbers
        for path in expand_braces(f"{pattern[: match.start()]}{n:0{width}}{pattern[match.end() :]}")
    ]
