"""Pictures as a conversation holds them: decoded once, upright sRGB, shared by content, counted in bytes.

What is decoded (app/chat/decoding) is the one picture there is: the model's input, what the page shows, and what is
saved are all made from it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from os.path import splitext  # unlike Path.suffix it takes ".png" and "..png" for names without one
from pathlib import Path
from weakref import WeakKeyDictionary, WeakValueDictionary

from PIL import Image

from app.chat.decoding.decode import ADVICE, Decoded, DecodeError, begins_as_picture
from app.chat.decoding.pool import POOL
from app.chat.picture_uri import picture_uri
from engine.asker import ASKER, NOBODY, Asker
from models.errors import ImageError
from models.memory.control_groups import free_memory

PREVIEW_SIDE = 1024
LOSSLESS_PREVIEW_PIXELS = 256 * 256  # small drawings stay sharp as PNG; photographs are far smaller as JPEG
BYTES_PER_PIXEL = 4  # of an RGB image in Pillow
BUDGET = 2 * 2**30  # bytes of all pictures that conversations hold
MOST_OF_A_VISIT = 1 / 2  # of the budget
LEAST_FREE = 2**30  # bytes of the machine's memory, about what two decoders take of the largest pictures
ALWAYS_ALLOWED = 1 / 32  # of the budget, to an address: others' pictures keep nobody from bringing a few, up to
MOST = 3 / 2  # of the budget: however many addresses there are, all of them have no more
ALWAYS_OF_A_VISIT = 1 / 256  # of the budget, to a browser whose address has more, for the same reason, up to
KEPT_BACK = 1 / 8  # of the budget and of LEAST_FREE, beside them: all that such browsers together may have
LEAST_LEFT = 2**28  # bytes of the machine's memory: with less nobody brings any beside those that are there

WEB_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".ico", ".avif")


@dataclass(frozen=True, eq=False)
class Picture:
    """An uploaded picture. Pictures of the same content share their pixels.

    `image` is what model and page get; of a very large file it is a smaller copy, and `original_size` says how large
    the file is. `shows_alike`: a browser that is given the file itself shows the same.
    """

    image: Image.Image
    name: str = "image"
    path: Path | None = None  # the file it was read from, which may be gone by now
    shows_alike: bool = True
    original_size: tuple[int, int] | None = None
    first: Picture | None = None  # the one with this content that was read first, if that is another

    def __getstate__(self) -> dict[str, object]:
        """For a file: the preview is made again when it is shown."""
        return {name: value for name, value in self.__dict__.items() if name != "preview_uri"}

    @property
    def is_web_file(self) -> bool:
        """Whether the page can show the file itself: browsers go by its name."""
        return self.shows_alike and self.path is not None and splitext(self.path)[1].lower() in WEB_SUFFIXES

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the file's picture, upright, in pixels."""
        return self.original_size or self.image.size

    @property
    def num_bytes(self) -> int:
        """The memory that it takes, its preview included once that has been made. Shared pixels count in full."""
        preview = (self.first or self).__dict__.get("preview_uri", "")
        return self.image.width * self.image.height * BYTES_PER_PIXEL + len(preview)

    @property
    def preview(self) -> Image.Image:
        """The picture at no more than PREVIEW_SIDE pixels a side."""
        preview = self.image.copy()
        preview.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
        return preview

    @cached_property
    def preview_uri(self) -> str:
        """The preview as a data URI: it needs no server file, so nobody else can fetch it and nothing expires."""
        return self.first.preview_uri if self.first else _preview_uri(self.preview)

    @cached_property
    def key(self) -> str:
        """A short name for the content, usable as an HTML id."""
        if self.first:
            return self.first.key
        digest = hashlib.sha1(f"{self.image.size}".encode(), usedforsecurity=False)
        digest.update(self.image.tobytes())
        return digest.hexdigest()[:12]


class PictureStore:
    """Every picture that is in use, by what its file holds: the same file is decoded once and held once.

    It keeps nothing alive: a picture is gone as soon as the last conversation that holds it lets go of it.
    """

    def __init__(
        self,
        decode: Callable[[bytes], Decoded] = POOL.decode,
        *,
        budget: int = BUDGET,
        free: Callable[[], int] = free_memory,
    ) -> None:
        self._decode, self._free = decode, free
        self._budget = budget
        self._adding = threading.Lock()
        self._known: WeakValueDictionary[bytes, Picture] = WeakValueDictionary()
        self._written: WeakValueDictionary[bytes, Picture] = WeakValueDictionary()
        self._askers: WeakKeyDictionary[Picture, Asker] = WeakKeyDictionary()  # who brought it first

    @property
    def num_bytes(self) -> int:
        """The memory that all pictures in use take, shared ones counted once."""
        return sum(picture.num_bytes for picture in list(self._known.values()))

    def __len__(self) -> int:
        """How many different pictures are in use."""
        return len(self._known)

    def open(self, source: bytes | str | Path, *, name: str | None = None) -> Picture:
        """As `open_picture`."""
        path = None if isinstance(source, bytes) else Path(source)
        name = name or (path.name if path else "The image")
        data = _read(path, name) if path else source
        assert isinstance(data, bytes)
        digest = hashlib.sha256(data).digest()
        if (written := self._written.get(digest)) is not None:
            return replace(written, path=path, shows_alike=True, first=written.first or written)
        picture = self._known.get(digest) or self._decoded(data, digest, name, path)
        if (picture.name, picture.path) == (name, path):
            return picture
        return replace(picture, name=name, path=path, first=picture.first or picture)

    def _decoded(self, data: bytes, digest: bytes, name: str, path: Path | None) -> Picture:
        self._check_room(name)
        try:
            decoded = self._decode(data)
        except DecodeError as error:
            raise ImageError(f"{name} {error}") from error
        made = Picture(decoded.image, name, path, decoded.shows_alike, decoded.original_size)
        with self._adding:
            if digest not in self._known:  # another visitor may have been quicker with the same file
                self._check_room(name)  # or with others: who waits for decoders has been let through long ago
            self._askers[made] = ASKER.get()
            return self._known.setdefault(digest, made)

    def _check_room(self, name: str) -> None:
        """Raise ImageError where the asker holds too much; or has some, and all together do or memory is short; or
        there is no room for anybody."""
        asker, budget, least_free = ASKER.get(), self._budget, LEAST_FREE
        held = [(self._askers.get(picture), picture.num_bytes) for picture in list(self._known.values())]
        of_visit = sum(size for other, size in held if other == asker)
        of_client = sum(size for other, size in held if other is not None and other.client == asker.client)
        if asker != NOBODY and of_visit >= MOST_OF_A_VISIT * budget:
            raise ImageError(
                f"{name} can't be read now: this browser has as many pictures on the server as it may. "
                "Begin a new chat, or close some."
            )
        has_some = of_client >= ALWAYS_ALLOWED * budget
        if has_some and asker != NOBODY and of_visit < ALWAYS_OF_A_VISIT * budget:
            budget, least_free = int(budget * (1 + KEPT_BACK)), int(least_free * (1 - KEPT_BACK))
        total, free = sum(size for _, size in held), self._free()
        is_full = total >= budget
        if asker != NOBODY and ((has_some and free < least_free) or (held and free < LEAST_LEFT)):
            raise ImageError(
                f"{name} can't be read now: the server's memory is short. Try again in a few minutes, or begin a new "
                "chat."
            )
        if is_full and (asker == NOBODY or has_some or total >= MOST * self._budget):
            raise ImageError(
                f"{name} can't be read now: the server holds as many pictures as it may "
                f"({self._budget / 2**20:,.0f} MiB). Try again in a few minutes."
            )

    def remember(self, picture: Picture, file: Path) -> None:
        """`file` has been written with this picture's pixels, by us: who attaches it again means the same picture."""
        self._written[hashlib.sha256(file.read_bytes()).digest()] = picture


STORE = PictureStore()


def open_picture(source: bytes | str | Path, *, name: str | None = None) -> Picture:
    """The picture in a file or its bytes. Raises ImageError for what is not one, is cut off or is too large.

    What the file holds decides; its name is only for people. It is decoded in another process, within limits of time
    and memory, and not again while a picture of the same content is in use.
    """
    return STORE.open(source, name=name)


_DRAWN: WeakValueDictionary[int, Picture] = WeakValueDictionary()  # by their images, which they keep alive


def drawn_picture(image: Image.Image) -> Picture:
    """A picture that a model has drawn. While it is in use there is one of each image: its key takes long to make."""
    return _DRAWN.get(id(image)) or _DRAWN.setdefault(id(image), Picture(image, "drawn"))


def check_beginning(path: str | Path) -> None:
    """Raise ImageError for a file that does not begin as pictures do. Nothing of it is decoded."""
    path = Path(path)
    if not begins_as_picture(_read(path, path.name, 64)):
        raise ImageError(f"{path.name} is not an image that can be read. {ADVICE}")


def _preview_uri(image: Image.Image) -> str:
    if image.width * image.height <= LOSSLESS_PREVIEW_PIXELS:
        return picture_uri(image, "png", optimize=True)
    return picture_uri(image, "jpeg", quality=88)


def _read(path: Path, name: str, num_bytes: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(num_bytes)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name is none"
        raise ImageError(f"{name} can't be read ({reason}). Choose it again.") from error
