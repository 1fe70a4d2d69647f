"""Pieces are done by threads of our own, each with one thread of PyTorch's; other threads keep what they had."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from models.loader import materialise
from models.tensors.loading_threads import loading_threads, spread
from tests.models.layouts import minigpt_full_size


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def counts_of_pieces() -> dict[str, int]:
    """By thread, PyTorch's number of threads, of pieces that are only done when three threads are at it."""
    found: dict[str, int] = {}
    meeting = threading.Barrier(3, timeout=60)

    def work(piece: int) -> None:
        meeting.wait()
        found[threading.current_thread().name] = torch.get_num_threads()

    spread(work, range(6))
    return found


def count_in_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_as_many_threads_load_as_pytorch_had_and_each_takes_one() -> None:
    with loading_threads():
        assert torch.get_num_threads() == 1
        assert list(counts_of_pieces().values()) == [1, 1, 1]
        assert count_in_new_thread() == 3  # such as one that answers with another model meanwhile
    assert torch.get_num_threads() == count_in_new_thread() == 3


def test_elsewhere_pieces_are_done_one_after_the_other() -> None:
    done: list[tuple[int, str]] = []
    spread(lambda piece: done.append((piece, threading.current_thread().name)), range(3))
    assert done == [(piece, threading.current_thread().name) for piece in range(3)]


def test_what_a_piece_raises_is_raised_and_nothing_stays() -> None:
    def fail(piece: int) -> None:
        raise ValueError(str(piece))

    with pytest.raises(ValueError, match="0"), loading_threads():
        spread(fail, range(4))
    assert torch.get_num_threads() == 3


def test_a_part_is_loaded_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        pass

    def reader(*_: object, **__: object) -> None:
        raise Asked(torch.get_num_threads())

    monkeypatch.setattr("models.loader.TensorReader", reader)
    part = minigpt_full_size.parts_of("minigpt_v2", "minigpt4/minigpt_v2")["connector"]
    with pytest.raises(Asked, match=r"^1$"):
        materialise(part, device=torch.device("cpu"), dtype=torch.float32)
