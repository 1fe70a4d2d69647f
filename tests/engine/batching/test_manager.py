"""What the engine changes about the library's batching: pages, and prompts in pieces."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, dataclass, field, replace
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from engine.batching.manager import Manager, OldestFirstLedger
from engine.chat_engine import ChatEngine
from models.conversation import Turn
from tests.tiny_model import GREEDY, ask, say, tiny_model

pytestmark = pytest.mark.usefixtures("quick")


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


def test_a_quarter_of_the_unused_pages_is_forgotten_at_least() -> None:
    ledger = OldestFirstLedger(at_least=1)
    for block in range(8):
        ledger.register_new_hash(block, 100 + block)
        ledger.release(block)
    assert ledger.evict_cached_blocks() == [0, 1]


@dataclass
class Loop:
    """What decides how many tokens a step takes, without a model."""

    manager: Manager = field(default_factory=lambda: object.__new__(Manager))
    busy: InitVar[int | None] = 10

    def __post_init__(self, busy: int | None) -> None:
        self.manager._busy_prefill_tokens = busy
        self.manager._is_burst = False
        self.manager.input_queue = Queue()

    def step(self, *answers: int, prompts: int = 0, waiting: int = 0, queued: int = 0) -> int:
        """The limit of a step with answers of so many tokens, prompts that are being read, and more to come."""
        running = [RequestState("answer", [1], generated_tokens=[1] * count) for count in answers]
        for state in running:
            state._status = RequestStatus.DECODING
        running += [RequestState("prompt", [1]) for _ in range(prompts)]
        while not self.manager.input_queue.empty():
            self.manager.input_queue.get()
        for _ in range(queued):
            self.manager.input_queue.put(RequestState("queued", [1]))
        processor: Any = SimpleNamespace(
            cache=SimpleNamespace(max_batch_tokens=512),
            scheduler=SimpleNamespace(waiting_requests=dict.fromkeys(range(waiting))),
        )
        return self.manager._step_tokens(processor, running)


def test_the_most_tokens_of_a_step() -> None:
    assert Loop(busy=None).step(5, prompts=3) == 512
    assert Loop().step(prompts=1) == 512  # no answer waits for it
    assert Loop().step(9, 9, prompts=1) == 2 + 10
    assert Loop().step(9, 9, prompts=2, waiting=2, queued=2) == 2 + 30  # three prompts for each answer
    assert Loop().step(*[9] * 510) == 512


@pytest.mark.parametrize("others", [{"prompts": 2}, {"prompts": 1, "waiting": 1}, {"prompts": 1, "queued": 1}])
def test_prompts_that_came_together_are_read_in_large_pieces_until_an_answer_has_waited_long_enough(
    others: dict[str, int],
) -> None:
    loop = Loop()
    assert loop.step(**others) == 120
    assert loop.step(7, prompts=1) == 1 + 120
    assert loop.step(8, prompts=1) == 1 + 10
    assert loop.step(7, prompts=1) == 1 + 10  # it is over
    assert loop.step(**others) == 120
    assert loop.step(2) == 1 + 10  # all are read: one that comes now is no part of them
    assert loop.step(3, prompts=1) == 1 + 10


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
    monkeypatch.setattr("engine.batching.manager._GATHER_SECONDS", 0.5)
    monkeypatch.setattr("engine.batching.manager._BURST_PIECES", 6)
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
