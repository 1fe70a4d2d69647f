"""Pictures in use: read once, shared by content, counted, and gone when nobody holds them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import pytest
from PIL import Image

from app.chat.decoding.decode import Decoded, decode
from app.chat.pictures import LEAST_LEFT, PREVIEW_SIDE, Picture, PictureStore, open_picture
from engine.asker import ASKER, Asker
from models.errors import ImageError
from tests.app.helpers import encode

RED = (255, 0, 0)


def test_the_message_names_the_file_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_text("no cat", encoding="utf-8")
    with pytest.raises(ImageError) as raised:
        open_picture(path)
    assert str(raised.value).startswith("cat.png is not an image")
    assert "\n" not in str(raised.value)


def test_preview_is_small_and_the_picture_is_kept() -> None:
    picture = open_picture(encode(Image.new("RGB", (3000, 1000), RED)))
    assert picture.image.size == (3000, 1000)
    assert picture.preview.size == (PREVIEW_SIDE, 341)
    assert picture.preview_uri.startswith("data:image/jpeg;base64,")
    for width, kind in ((256, "png"), (257, "jpeg")):
        preview = open_picture(encode(Image.new("RGB", (width, 256)))).preview_uri
        assert preview.startswith(f"data:image/{kind};base64,")


class Counting:
    """Decodes here, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, data: bytes) -> Decoded:
        self.calls += 1
        return decode(data)


def test_the_same_file_is_decoded_and_held_once(tmp_path: Path) -> None:
    counting = Counting()
    store = PictureStore(counting)
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(encode(Image.new("RGB", (9, 9), RED)))
    one, two = store.open(tmp_path / "one.png"), store.open(tmp_path / "two.png")
    assert (one.name, two.name) == ("one.png", "two.png")  # one visitor is not shown another's names
    assert (one.path, two.path) == (tmp_path / "one.png", tmp_path / "two.png")
    assert one.image is two.image
    assert one.preview_uri is two.preview_uri
    assert counting.calls == len(store) == 1


def test_a_picture_is_gone_with_the_last_who_holds_it() -> None:
    store = PictureStore(decode)
    data = encode(Image.new("RGB", (100, 50)))
    one, same = store.open(data, name="one"), store.open(data, name="two")
    assert store.num_bytes == one.num_bytes == 100 * 50 * 4
    assert len(same.preview_uri) > 0
    assert store.num_bytes == same.num_bytes == 100 * 50 * 4 + len(same.preview_uri)
    del one
    assert len(store) == 1
    del same
    assert (len(store), store.num_bytes) == (0, 0)


def test_beyond_the_budget_a_picture_is_refused_until_another_is_let_go() -> None:
    store = PictureStore(decode, budget=400)
    first = store.open(encode(Image.new("RGB", (10, 10))))
    counting = store._decode = Counting()
    with pytest.raises(ImageError, match=r"^cat\.png can't be read now: the server holds as many pictures"):
        store.open(encode(Image.new("RGB", (11, 10))), name="cat.png")
    assert counting.calls == 0
    assert store.open(encode(Image.new("RGB", (10, 10)))).image is first.image  # it costs nothing more
    del first
    store.open(encode(Image.new("RGB", (11, 10))))


def test_nobody_keeps_others_from_bringing_a_picture() -> None:
    store = PictureStore(decode, budget=128 * 400)
    held: list[Picture] = []

    def bring(number: int, asker: Asker) -> None:
        token = ASKER.set(asker)
        try:
            held.append(store.open(encode(Image.new("RGB", (10, 10), (number, 0, 0)))))
        finally:
            ASKER.reset(token)

    for number in range(64):
        bring(number, Asker("attacker", "one"))
    with pytest.raises(ImageError, match="this browser has as many pictures on the server as it may"):
        bring(64, Asker("attacker", "one"))
    for number in range(64, 128):
        bring(number, Asker("attacker", ("two", "three")[number % 2]))
    with pytest.raises(ImageError, match="the server holds as many pictures"):
        bring(128, Asker("attacker", "three"))
    for number in range(128, 132):
        bring(number, Asker("other", "x"))
    with pytest.raises(ImageError, match="the server holds as many pictures"):
        bring(132, Asker("other", "x"))


def test_a_browser_that_has_none_may_bring_one_where_others_of_its_address_hold_all_there_is() -> None:
    store = PictureStore(decode, budget=256 * 400)
    held: list[Picture] = []

    def bring(visit: str) -> None:
        token = ASKER.set(Asker("router", visit))
        try:
            held.append(store.open(encode(Image.new("RGB", (10, 10), (len(held) % 256, len(held) // 256, 0)))))
        finally:
            ASKER.reset(token)

    for number in range(256):
        bring(f"{number % 2}")
    for visit in ("0", "1"):
        with pytest.raises(ImageError):
            bring(visit)
    for number in range(32):  # an eighth more, of all of them together
        bring(f"few {number}")
        with pytest.raises(ImageError, match="the server holds as many pictures"):
            bring(f"few {number}")
    with pytest.raises(ImageError, match="the server holds as many pictures"):
        bring("one more")


def test_where_memory_is_short_only_who_has_none_may_bring_a_picture() -> None:
    free = [2**40]
    store = PictureStore(decode, budget=32 * 400, free=lambda: free[0])
    held = [store.open(encode(Image.new("RGB", (10, 10))))]
    for asker, colour in ((Asker("attacker", "one"), 1), (Asker("other", "two"), 2)):
        free[0] = LEAST_LEFT
        token = ASKER.set(asker)
        try:
            held.append(store.open(encode(Image.new("RGB", (10, 10), (colour, 0, 0)))))
            with pytest.raises(ImageError, match=r"cat\.png can't be read now: the server's memory is short"):
                store.open(encode(Image.new("RGB", (11, 10))), name="cat.png")
            free[0] = 2**40
            store.open(encode(Image.new("RGB", (11, 10))))
        finally:
            ASKER.reset(token)
    free[0] = 0
    store.open(encode(Image.new("RGB", (12, 10))))  # of nobody: in the terminal, where nobody else is


def of_many_addresses(store: PictureStore, number: int) -> list[Picture | str]:
    """What each gets who brings a picture of 400 bytes, all of them at once, from an address of its own."""

    def bring(number: int) -> Picture | str:
        ASKER.set(Asker(f"address {number}", ""))
        try:
            return store.open(encode(Image.new("RGB", (10, 10), (number, 0, 0))))
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda number: copy_context().run(bring, number), range(number)))


def test_all_addresses_together_have_no_more_than_half_as_much_again() -> None:
    """150 of them brought two large pictures each and had 9 GiB; who waits for a decoder counts, too."""
    everybody = threading.Barrier(20)

    def decode_late(data: bytes) -> Decoded:
        everybody.wait(60)
        return decode(data)

    got = of_many_addresses(PictureStore(decode_late, budget=8 * 400), 20)
    told = [one for one in got if isinstance(one, str)]
    assert len(told) == 8
    assert all("the server holds as many pictures as it may" in one for one in told)


def test_with_no_memory_left_nobody_brings_a_picture_beside_others() -> None:
    free = [LEAST_LEFT - 1]
    store = PictureStore(decode, free=lambda: free[0])
    first = of_many_addresses(store, 1)
    assert isinstance(first[0], Picture)  # who is alone may: it is their machine
    refused = of_many_addresses(store, 2)[1]
    assert isinstance(refused, str)
    assert "the server's memory is short" in refused


def test_a_file_written_for_the_page_is_still_the_picture_it_was_written_for(tmp_path: Path) -> None:
    counting = Counting()
    store = PictureStore(counting)
    picture = store.open(encode(Image.new("RGB", (9, 9), RED), "TIFF"), name="scan.tif")
    picture.image.save(tmp_path / "x.png")
    store.remember(picture, tmp_path / "x.png")
    again = store.open(tmp_path / "x.png")
    assert again.image is picture.image
    assert (again.name, again.path) == ("scan.tif", tmp_path / "x.png")
    assert again.is_web_file
    assert not picture.is_web_file
    assert counting.calls == 1


@pytest.mark.parametrize("name", ["noext", ".png", "..png", "photo.jpg_large", "x.txt"])
def test_content_decides_whatever_the_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(encode(Image.new("RGB", (9, 9), RED)))
    picture = open_picture(tmp_path / name)
    assert picture.image.getpixel((4, 4)) == RED
    assert not picture.is_web_file  # browsers need a file with a name that they understand


def test_key_is_of_the_content() -> None:
    one, same = (open_picture(encode(Image.new("RGB", (9, 9), RED), kind)) for kind in ("PNG", "BMP"))
    other = open_picture(encode(Image.new("RGB", (9, 9), "blue")))
    assert one.key == same.key != other.key
    assert len({Picture(Image.new("RGB", size)).key for size in ((4, 2), (2, 4), (8, 1))}) == 3


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="can't be read"):
        open_picture(tmp_path / "gone.png")
