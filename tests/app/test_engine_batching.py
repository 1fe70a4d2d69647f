"""What the engine changes about the library's batching: pages, prompts in pieces, mailboxes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from torch import Tensor, nn
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from app.engine import ChatEngine
from app.engine_batching import Mailbox, OldestFirstLedger
from app.engine_queue import Admission
from models.conversation import Turn
from models.errors import Busy
from tests.app.tiny_model import GREEDY, ask, say, tiny_model

pytestmark = pytest.mark.usefixtures("quick")


def output(ids: list[int], status: RequestStatus = RequestStatus.DECODING) -> GenerationOutput:
    return GenerationOutput("chat", prompt_ids=[], generated_tokens=ids, status=status)


def test_pages_unused_for_longest_are_forgotten_first() -> None:
    ledger = OldestFirstLedger(at_least=2)
    for block in range(4):
        ledger.register_new_hash(block, 100 + block)
        assert not ledger.release(block)
    ledger.acquire(0)
    ledger.release(0)  # used again: now the newest
    assert ledger.evict_cached_blocks() == [1, 2]
    assert sorted(ledger.hash_to_block) == [100, 103]
    assert ledger.evict_cached_blocks() == [3, 0]
    assert ledger.evict_cached_blocks() == []
    assert not ledger.block_to_hash


def test_a_chat_in_use_keeps_its_prefix_while_others_come_and_go() -> None:
    """Enough visitors to fill the cache many times over; the library alone would forget everything at once."""
    model = tiny_model()
    say(model, 0, "")
    with ChatEngine(model, max_concurrent=1, page_size=8, max_batch_tokens=64, update_interval=0) as engine:
        mine: tuple[Turn, ...] = ask("My own long conversation, " * 4)
        list(engine.stream(mine, GREEDY))
        for visitor in range(20):
            list(engine.stream(ask(f"{visitor} " * 80), GREEDY))
            before = engine.stats().prompt_tokens_reused
            list(engine.stream(mine, GREEDY))
            assert engine.stats().prompt_tokens_reused - before > 80
        assert engine.stats().pages_kept <= engine.stats().pages_total


def test_prompts_are_read_in_small_pieces_while_an_answer_is_written() -> None:
    model = tiny_model()
    model.language_model.script = lambda _: 3 + ord("a")  # type: ignore[assignment]
    sizes: list[int] = []

    def note(_module: nn.Module, args: tuple[Tensor]) -> None:
        sizes.append(args[0].numel())

    with ChatEngine(model, page_size=8, busy_prefill_tokens=16, update_interval=0) as engine:
        hook = model.language_model.get_input_embeddings().register_forward_pre_hook(note)
        list(engine.stream(ask("a prompt that nobody has to wait for " * 4), replace(GREEDY, max_new_tokens=1)))
        assert max(sizes) > 100
        long = replace(GREEDY, max_new_tokens=450)
        with engine.stream(ask("hi"), long) as first, engine.stream(ask("you"), long) as second:
            next(first)
            sizes.clear()
            next(engine.stream(ask("another prompt, which comes while an answer is written " * 3), GREEDY))
            assert 16 < max(sizes) <= 17
            next(second)
            sizes.clear()
            others = [ask(f"{number} more come at the same time and share the piece " * 3) for number in range(2)]
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda turns: list(engine.stream(turns, GREEDY)), others))
            assert 16 < max(sizes) <= 16 + 4  # one token of each answer under way
        hook.remove()


def test_questions_that_come_at_once_are_read_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine_batching._GATHERING", 0.5)
    monkeypatch.setattr("app.engine_batching._BURST", 6)
    model = tiny_model()
    sizes: list[int] = []

    def note(_module: nn.Module, args: tuple[Tensor]) -> None:
        sizes.append(args[0].numel())

    chats = [ask(f"{number} of three questions") for number in range(3)]
    with ChatEngine(model, busy_prefill_tokens=10, update_interval=0) as engine, ThreadPoolExecutor(3) as pool:
        hook = model.language_model.get_input_embeddings().register_forward_pre_hook(note)
        list(pool.map(lambda turns: list(engine.stream(turns, GREEDY)), chats))
        hook.remove()
    assert sizes[:2] == [60, 61]  # with a token of the answer that is under way by then
    assert 2 < sizes[2] < 60


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
    threading.Timer(0.05, wake[how]).start()
    start = time.monotonic()
    mailbox.wait_end(30)
    assert time.monotonic() - start < 5


def test_what_only_looked_like_a_stop_string_wakes_once() -> None:
    mailbox = Mailbox(stops=lambda ids: ids[-1:] == [9])
    mailbox.put(output([7, 9]))
    mailbox.wait_end(30)
    assert mailbox.wait(0, timeout=0) is not None
    assert mailbox.wait(2, timeout=0.01) is None


def test_places_go_to_who_waited_longest() -> None:
    admission = Admission(places=1, max_waiting=3)
    first, *waiting = turns = [admission.join() for _ in range(4)]
    assert [admission.number(turn) for turn in turns] == [0, 1, 2, 3]
    with pytest.raises(Busy, match="3 questions are waiting"):
        admission.join()
    admission.leave(waiting.pop(1))  # who gives up in the queue frees nobody's place
    assert [turn.is_set() for turn in turns] == [True, False, False, False]
    assert [admission.number(turn) for turn in waiting] == [1, 2]
    for turn, following in zip((first, *waiting), waiting, strict=False):
        admission.leave(turn)
        assert (following.is_set(), admission.number(following)) == (True, 0)
    admission.leave(waiting[-1])
    assert (admission.num_active, admission.num_waiting) == (0, 0)
