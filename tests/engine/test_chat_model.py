"""A stream over a generator ends for every thread when any thread closes it."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.chat_model import GeneratorStream
from models.conversation import Answer
from models.errors import Busy


class Scripted:
    """Two answers, each after a wait if `gate` is given; `ended` counts how often the generator was left for good."""

    def __init__(self, gate: threading.Semaphore | None = None) -> None:
        self.gate = gate
        self.inside = threading.Event()
        self.ended = 0
        self.stream = GeneratorStream(self._answers())

    def _answers(self) -> Generator[Answer]:
        try:
            for text in ("one", "one two"):
                self.inside.set()
                if self.gate is not None:
                    self.gate.acquire()
                yield Answer(text=text)
        finally:
            self.ended += 1


def test_it_gives_what_the_generator_gives() -> None:
    scripted = Scripted()
    assert [answer.text for answer in scripted.stream] == ["one", "one two"]
    assert scripted.ended == 1


def test_closed_between_two_answers() -> None:
    scripted = Scripted()
    assert next(scripted.stream).text == "one"
    scripted.stream.close()
    assert scripted.ended == 1
    scripted.stream.close()
    assert list(scripted.stream) == []
    assert scripted.ended == 1


def test_closed_before_it_has_begun() -> None:
    scripted = Scripted()
    scripted.stream.close()
    assert list(scripted.stream) == []
    assert not scripted.inside.is_set()


def test_closed_while_another_thread_is_inside() -> None:
    scripted = Scripted(threading.Semaphore(0))
    assert scripted.gate is not None
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(lambda: list(scripted.stream))
        assert scripted.inside.wait(20)
        scripted.stream.close()  # must not wait, nor raise that the generator is running
        assert scripted.ended == 0
        scripted.gate.release()
        assert reader.result(20) == []  # what came after the end is not given
    assert scripted.ended == 1


def test_closed_at_any_moment_by_many_threads() -> None:
    for _ in range(200):
        scripted = Scripted()
        with ThreadPoolExecutor(3) as pool:
            reader = pool.submit(lambda stream: list(stream), scripted.stream)
            closers = [pool.submit(scripted.stream.close) for _ in range(2)]
            assert [answer.text for answer in reader.result(20)] in ([], ["one"], ["one", "one two"])
            assert [closer.result(20) for closer in closers] == [None, None]
        assert scripted.ended == scripted.inside.is_set()  # left once if it was entered, whoever came first


def test_an_error_reaches_the_reader_and_ends_it() -> None:
    def answers() -> Generator[Answer]:
        yield Answer(text="so far")
        raise Busy("Too many questions.")

    stream = GeneratorStream(answers())
    assert next(stream).text == "so far"
    with pytest.raises(Busy):
        next(stream)
    assert list(stream) == []
    stream.close()
