"""The loop by itself, over token ids: what it generates, counts, gives back and does after an error."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from engine.batching.cache_sizes import kv_bytes_per_token
from engine.batching.generation_loop import GenerationLoop, LoopStopped, Ticket
from models.conversation import Sampling
from models.errors import NotEnoughMemory
from tests.engine.helpers import PAGE
from tests.tiny_model import EOS, ScriptedLlama, tiny_model
from tests.waiting import eventually

PROMPT = [1, *range(50, 70)]
LONG = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=400)
SHORT = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=6)
SECONDS = 60  # for what takes milliseconds


@pytest.fixture(scope="module")
def llama() -> ScriptedLlama:
    language_model = tiny_model().language_model
    assert isinstance(language_model, ScriptedLlama)
    return language_model


@pytest.fixture
def loop(llama: ScriptedLlama) -> Iterator[GenerationLoop]:
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
    llama.script = llama.on_forward = None
    made = loop_of(llama)
    yield made
    made.close()


def loop_of(llama: ScriptedLlama, **options: Any) -> GenerationLoop:
    settings: dict[str, Any] = {
        "context_tokens": 512,
        "max_concurrent": 2,
        "max_batch_tokens": 64,
        "busy_prefill_tokens": None,
        "page_size": PAGE,
        "kv_bytes": 2**20,
        "eos_token_ids": [EOS],
        "penalised_ids": (),
        "num_ids": llama.config.vocab_size,
        "stops": None,
    }
    return GenerationLoop(llama, **settings | options)


def generated(loop: GenerationLoop, ticket: Ticket) -> list[int]:
    """All ids of a request."""
    while True:
        output = ticket.mailbox.wait(10**9, SECONDS)
        assert output is not None
        if output.is_finished():
            loop.finish(ticket)
            return list(output.generated_tokens)


def failing(error: BaseException) -> Callable[[], None]:
    def on_forward() -> None:
        raise error

    return on_forward


def test_before_the_start_nothing_is_there(loop: GenerationLoop, llama: ScriptedLlama) -> None:
    assert (loop.pages(), loop.num_active, loop.num_known, loop.num_reused, loop.num_captured) == (
        (0, 0, 0),
        0,
        0,
        0,
        0,
    )
    assert loop.page_bytes == PAGE * kv_bytes_per_token(llama)
    assert loop.copy_bytes == loop._copy_tokens * kv_bytes_per_token(llama) > 0


@torch.inference_mode()
def test_ids_are_those_of_generate_and_pages_come_back(loop: GenerationLoop, llama: ScriptedLlama) -> None:
    ids = llama.generate(torch.tensor([PROMPT]), max_new_tokens=6, do_sample=False)  # type: ignore[misc]
    expected = ids[0, len(PROMPT) :].tolist()
    loop.start()
    in_use, kept, total = loop.pages()
    assert (in_use, kept) == (0, 0)
    assert total >= 512 // PAGE
    assert generated(loop, loop.submit(PROMPT, SHORT)) == expected
    assert eventually(lambda: (loop.num_active, loop.pages()[0]) == (0, 0))
    num_written = len(PROMPT) + len(expected) - 1  # the last id was never read
    assert loop.pages() == (0, num_written // PAGE, total)  # whole pages stay, for prompts that begin alike
    assert (loop.num_known, loop.num_reused) == (0, 0)
    assert generated(loop, loop.submit(PROMPT, SHORT)) == expected
    assert loop.num_reused == len(PROMPT) // PAGE * PAGE


def test_a_running_request_holds_pages_until_it_is_finished(loop: GenerationLoop, llama: ScriptedLlama) -> None:
    """Seen while the loop stands at the beginning of a step, so that no answer ends meanwhile."""
    steps = threading.Semaphore(0)

    def wait() -> None:
        steps.acquire(timeout=SECONDS)

    llama.on_forward = wait
    llama.script = lambda _: 60  # never EOS
    tickets = [loop.submit([1, *range(first, first + 20)], LONG) for first in (50, 100)]
    steps.release(3)
    for ticket in tickets:
        assert ticket.mailbox.wait(0, SECONDS) is not None
    assert (loop.num_active, loop.num_known) == (2, 2)
    in_use, kept, total = loop.pages()
    assert 6 <= in_use <= total - kept  # 21 tokens each
    loop.finish(tickets[0])
    steps.release(2)
    assert eventually(lambda: loop.num_active == 1)
    assert (loop.num_known, tickets[0].request_id in loop._mailboxes) == (1, False)
    loop.finish(tickets[1])
    steps.release(2)
    assert eventually(lambda: (loop.num_active, loop.pages()[0]) == (0, 0))


def test_more_requests_than_places_wait_in_the_loop(loop: GenerationLoop, llama: ScriptedLlama) -> None:
    """Counted while the loop stands in a step, as a request is nowhere while it goes from the queue to the batch."""
    steps, standing = threading.Semaphore(0), threading.Semaphore(0)

    def wait() -> None:
        standing.release()
        steps.acquire(timeout=SECONDS)

    llama.on_forward, llama.script = wait, lambda _: 60  # never EOS
    tickets = [loop.submit([*PROMPT, 80 + number], SHORT) for number in range(5)]
    assert len({ticket.request_id for ticket in tickets}) == 5
    assert standing.acquire(timeout=SECONDS)
    assert (loop.num_known, loop.num_active) == (5, 5)  # on their way to the loop, but for the first ones
    steps.release()
    assert standing.acquire(timeout=SECONDS)
    assert (loop.num_known, loop.num_active) == (5, 5)  # some in the batch, the others behind it
    steps.release(1000)
    assert [len(generated(loop, ticket)) for ticket in tickets] == [6] * 5
    assert loop.num_known == 0


def test_after_close_nothing_is_taken_and_nothing_runs(loop: GenerationLoop, llama: ScriptedLlama) -> None:
    llama.script = lambda _: 60
    ticket = loop.submit(PROMPT, LONG)
    loop.check(ticket)  # it runs
    loop.close()
    with pytest.raises(LoopStopped, match="shut down"):
        loop.check(ticket)
    with pytest.raises(LoopStopped, match="shut down"):
        loop.submit(PROMPT, SHORT)
    assert loop.pages() == (0, 0, 0)


def test_after_an_error_the_next_request_starts_a_new_loop(loop: GenerationLoop, llama: ScriptedLlama) -> None:
    expected = generated(loop, loop.submit(PROMPT, SHORT))
    generated(loop, loop.submit(PROMPT, SHORT))
    reused = loop.num_reused
    llama.on_forward = failing(ValueError("broken"))
    ticket = loop.submit(PROMPT, SHORT)
    assert eventually(lambda: ticket.manager.crash is not None)
    with pytest.raises(LoopStopped, match="starts it again") as caught:
        loop.check(ticket)
    assert str(caught.value.__cause__) == "broken"
    loop.finish(ticket)
    llama.on_forward = None
    before = loop.num_reused
    assert before >= reused > 0
    assert generated(loop, loop.submit(PROMPT, SHORT)) == expected
    assert (loop.num_restarts, loop.num_reused) == (1, before)  # of the new prefix cache, nothing yet


def test_memory_that_ran_out_is_said_so(loop: GenerationLoop, llama: ScriptedLlama) -> None:
    llama.on_forward = failing(MemoryError())
    ticket = loop.submit(PROMPT, SHORT)
    assert eventually(lambda: ticket.manager.crash is not None)
    with pytest.raises(NotEnoughMemory, match="ran out of memory"):
        loop.check(ticket)


def test_a_restart_empties_the_prefix_cache(loop: GenerationLoop) -> None:
    generated(loop, loop.submit(PROMPT, SHORT))
    assert eventually(lambda: loop.pages()[1] > 0)
    loop.restart()
    assert loop.pages()[:2] == (0, 0)
    assert loop.pages()[2] > 0  # it runs
    assert loop.num_restarts == 0  # nothing went wrong
    assert generated(loop, loop.submit(PROMPT, SHORT))


def test_a_cache_too_small_for_one_conversation_is_refused(llama: ScriptedLlama) -> None:
    with pytest.raises(NotEnoughMemory):
        loop_of(llama, kv_bytes=511 * kv_bytes_per_token(llama))
