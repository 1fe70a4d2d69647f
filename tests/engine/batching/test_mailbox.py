"""Mailboxes: the newest output of a request, and a reader that is woken by what it waits for alone."""

from __future__ import annotations

import math
import threading

import pytest
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from engine.batching.mailbox import Mailbox
from tests.waiting import eventually


def output(ids: list[int], status: RequestStatus = RequestStatus.DECODING) -> GenerationOutput:
    return GenerationOutput("chat", prompt_ids=[], generated_tokens=ids, status=status)


def waiting_for_the_end(mailbox: Mailbox) -> threading.Thread:
    reader = threading.Thread(target=mailbox.wait_end, args=(3600,), daemon=True)
    reader.start()
    return reader


def is_woken(reader: threading.Thread) -> bool:
    reader.join(30)
    return not reader.is_alive()


def test_a_mailbox_holds_the_newest_output_and_never_makes_the_writer_wait() -> None:
    mailbox = Mailbox()
    assert mailbox.wait(0, timeout=0) is None
    for count in range(1, 5):
        mailbox.put(output([7] * count))
    newest = mailbox.wait(1, timeout=0)
    assert newest is not None
    assert len(newest.generated_tokens) == 4
    assert mailbox.wait(4, timeout=0.01) is None
    mailbox.put(output([7] * 4, RequestStatus.FINISHED))
    assert mailbox.wait(4, timeout=0) is not None  # the end is news, even without a new token


def test_a_reader_is_woken_by_what_it_waits_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox = Mailbox()
    woken: list[int] = []

    def put(count: int, *status: RequestStatus) -> list[int]:
        monkeypatch.setattr(mailbox._changed, "notify_all", lambda: woken.append(count))
        mailbox.put(output([7] * count, *status))
        return woken

    assert mailbox.wait(2, timeout=0) is None
    assert put(2) == []
    assert put(3) == [3]
    mailbox.wait_end(0)
    assert put(4) == [3]
    assert put(4, RequestStatus.FINISHED) == [3, 4]


@pytest.mark.parametrize("how", ["close", "finish", "stop string"])
def test_a_reader_that_waits_for_the_end_is_woken_by_it(how: str) -> None:
    mailbox = Mailbox(stops=lambda ids: ids[-1:] == [9])
    wake = {
        "close": mailbox.close,
        "finish": lambda: mailbox.put(output([], RequestStatus.FINISHED)),
        "stop string": lambda: mailbox.put(output([7, 9])),
    }
    mailbox.put(output([7]))
    reader = waiting_for_the_end(mailbox)
    assert eventually(lambda: mailbox._wanted == math.inf)  # it waits as soon as it lets go of the lock
    assert reader.is_alive()
    wake[how]()
    assert is_woken(reader)


def test_what_only_looked_like_a_stop_string_wakes_once() -> None:
    mailbox = Mailbox(stops=lambda ids: ids[-1:] == [9])
    mailbox.put(output([7, 9]))
    assert is_woken(waiting_for_the_end(mailbox))
    assert mailbox.wait(0, timeout=0) is not None
    assert mailbox.wait(2, timeout=0.01) is None
