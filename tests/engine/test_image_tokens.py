"""The bank of image features behind token ids: never the wrong image, never one that is in use."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.image_tokens import ImageBank, ImageIdsExhausted, ImageTokenEmbedding
from models.errors import Busy, RequestError
from tests.waiting import eventually

V, S, T, H = 10, 3, 4, 6


def bank(*, num_slots: int = S, max_id: int = 2**31 - 1, embed_scale: float = 1.0) -> ImageBank:
    embedding = ImageTokenEmbedding(
        nn.Embedding(V, H), num_slots=num_slots, num_image_tokens=T, embed_scale=embed_scale
    )
    return ImageBank(embedding, max_id=max_id)


def features(key: str) -> Tensor:
    """[T, H], different for every key."""
    return torch.arange(T * H, dtype=torch.float32).reshape(T, H) + 1000 * int(key)


def put(images: ImageBank, key: str) -> list[int]:
    with images.pin([key]) as pinned:
        return pinned.fill(key, lambda: features(key))


@torch.no_grad()
def test_text_ids_read_text_rows_and_image_ids_read_their_image() -> None:
    images = bank()
    first, second = put(images, "1"), put(images, "2")
    ids = torch.tensor([[3, *first, 9, *second]], dtype=torch.int32)
    rows = images.embedding(ids)[0]
    text = images.embedding.weight
    assert torch.equal(rows, torch.cat([text[3:4], features("1"), text[9:10], features("2")]))


@torch.no_grad()
def test_image_rows_are_scaled_for_models_that_scale_their_embedding() -> None:
    images = bank(embed_scale=2.0)
    assert torch.equal(images.embedding(torch.tensor(put(images, "1"))), 2 * features("1"))


def test_the_same_image_keeps_its_ids_and_is_encoded_once() -> None:
    images = bank()
    ids = put(images, "1")
    with images.pin(["1"]) as pinned:
        assert pinned.fill("1", lambda: pytest.fail("encoded twice")) == ids


def test_wrong_feature_shapes_name_both_shapes() -> None:
    images = bank()
    with images.pin(["1"]) as pinned, pytest.raises(ValueError, match=r"\(3, 6\).*\(4, 6\)"):
        pinned.fill("1", lambda: torch.zeros(3, H))
    assert images.num_held == 0


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=S, unique=True), max_size=60))
@settings(max_examples=60, deadline=None)
def test_ids_never_mean_two_images_whatever_the_order(requests: list[list[int]]) -> None:
    images = bank()
    owner: dict[int, str] = {}
    for request in requests:
        keys = [str(key) for key in request]
        with images.pin(keys) as pinned:
            for key in keys:
                ids = pinned.fill(key, lambda key=key: features(key))  # type: ignore[misc]
                assert all(owner.setdefault(i, key) == key for i in ids)
            for key in keys:
                ids = pinned.fill(key, lambda: pytest.fail("pushed out while in use"))
                assert torch.equal(images.embedding(torch.tensor(ids)).detach(), features(key))
    assert images.num_pinned == 0
    assert images.num_held <= S


def test_the_least_recently_used_image_makes_room() -> None:
    images = bank()
    kept, old, recent = put(images, "1"), put(images, "2"), put(images, "3")
    put(images, "1")
    put(images, "4")
    assert put(images, "1") == kept
    assert put(images, "3") == recent
    assert put(images, "2") != old


def test_images_in_use_stay_and_the_next_request_waits_for_them() -> None:
    images = bank(num_slots=2)
    held = images.pin(["1", "2"])
    ids = held.fill("1", lambda: features("1"))
    with pytest.raises(Busy, match="in use"):
        images.pin(["3"])
    found: list[int] = []

    def wait() -> None:
        with images.pin(["3"], timeout=3600) as pinned:
            found.extend(pinned.fill("3", lambda: features("3")))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert eventually(lambda: bool(images._changed._waiters))  # type: ignore[attr-defined]
    held.release()
    waiting.join(30)
    assert found
    assert not set(found) & set(ids)


def test_waiting_requests_hold_nothing_so_they_cannot_block_each_other() -> None:
    """Two requests that each need both slots: taken one by one, each would hold what the other waits for."""
    images = bank(num_slots=2)
    done = []

    def request(keys: list[str]) -> None:
        for _ in range(20):
            with images.pin(keys, timeout=10) as pinned:
                for key in keys:
                    pinned.fill(key, lambda key=key: features(key))  # type: ignore[misc]
        done.append(keys)

    threads = [threading.Thread(target=request, args=(keys,)) for keys in (["1", "2"], ["3", "4"], ["2", "3"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(done) == 3
    assert images.num_pinned == 0


def test_more_images_than_slots_are_refused() -> None:
    with pytest.raises(RequestError, match=r"4 different images.*holds 3"):
        bank().pin(["1", "2", "3", "4"])


def test_one_of_many_encodes_and_the_others_wait_for_it() -> None:
    images, calls, results = bank(), [], []

    def encode() -> Tensor:
        calls.append(1)
        time.sleep(0.05)
        return features("1")

    def request() -> None:
        with images.pin(["1"]) as pinned:
            results.append(pinned.fill("1", encode))

    threads = [threading.Thread(target=request) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert all(result == results[0] for result in results)


def test_when_encoding_fails_the_next_one_tries_again() -> None:
    images = bank()
    waiting = images.pin(["1"])
    with images.pin(["1"]) as pinned, pytest.raises(ZeroDivisionError):
        pinned.fill("1", lambda: features(str(1 // 0)))
    ids = waiting.fill("1", lambda: features("1"))
    waiting.release()
    assert put(images, "1") == ids


def test_ids_stop_before_they_overflow_and_start_over_after_a_reset() -> None:
    last_id = V + 2 * S * T - 1  # two generations of every slot
    images = bank(max_id=last_id)
    for key in range(2 * S):
        assert max(put(images, str(key))) <= last_id
    with pytest.raises(ImageIdsExhausted):
        images.pin(["99"])
    assert images.num_pinned == 0
    with images.pin([str(2 * S - 1)]), pytest.raises(RuntimeError, match="in use"):
        images.reset()
    images.reset()
    assert put(images, "99")[0] == V
