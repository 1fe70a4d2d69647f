"""Which of the waiting questions gradio begins next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from app.limits.addresses import SCOPE_KEY
from app.limits.fair_queue import FairQueue
from engine.asker import Asker


def event(name: str, client: str, visit: str = "") -> Any:
    request = SimpleNamespace(scope={SCOPE_KEY: Asker(client, visit)})
    return SimpleNamespace(_id=name, request=request, concurrency_id="answers")


def queue_of(*events: Any, limit: int | None) -> Any:
    waiting = SimpleNamespace(
        queue=list(events), concurrency_id="answers", concurrency_limit=limit, current_concurrency=0
    )
    return SimpleNamespace(event_queue_per_concurrency_id={"answers": waiting}, active_jobs=[None] * 8)


def begun(queue: Any, fair: FairQueue) -> str | None:
    """What is begun next, as gradio's loop does it."""
    found = fair.get_events()
    if found is None:
        return None
    (one,), is_batch, name = found
    assert not is_batch
    queue.active_jobs[queue.active_jobs.index(None)] = [one]
    queue.event_queue_per_concurrency_id[name].current_concurrency += 1
    return str(one._id)


def ended(queue: Any, place: int) -> None:
    queue.active_jobs[place] = None
    queue.event_queue_per_concurrency_id["answers"].current_concurrency -= 1


def test_one_address_leaves_places_to_others() -> None:
    many = [event(f"a{n}", "1.1.1.1", f"v{n}") for n in range(5)]
    queue = queue_of(*many, limit=4)
    fair = FairQueue(queue)
    assert [begun(queue, fair) for _ in range(4)] == ["a0", "a1", "a2", None]
    queue.event_queue_per_concurrency_id["answers"].queue.append(event("b", "2.2.2.2"))
    assert begun(queue, fair) == "b"
    assert begun(queue, fair) is None
    ended(queue, 0)
    assert begun(queue, fair) == "a3"


def test_one_browser_leaves_places_to_others_of_its_address() -> None:
    queue = queue_of(*[event(f"a{n}", "1.1.1.1", "a") for n in range(5)], event("b", "1.1.1.1", "b"), limit=4)
    fair = FairQueue(queue)
    assert [begun(queue, fair) for _ in range(3)] == ["a0", "b", None]
    queue.event_queue_per_concurrency_id["answers"].queue.append(event("c", "1.1.1.1", "c"))
    assert begun(queue, fair) == "c"
    ended(queue, 1)
    ended(queue, 2)
    assert [begun(queue, fair) for _ in range(2)] == ["a1", None]


def test_addresses_take_turns_and_so_do_their_browsers() -> None:
    many = [event(f"a{n}", "1.1.1.1", "a") for n in range(3)]
    queue = queue_of(*many, event("c", "1.1.1.1", "c"), event("b", "2.2.2.2"), limit=1)
    fair = FairQueue(queue)
    order = []
    for _ in range(5):
        order.append(begun(queue, fair))
        ended(queue, 0)
    assert order == ["a0", "b", "c", "a1", "a2"]


def test_without_a_limit_everything_begins() -> None:
    queue = queue_of(*[event(f"a{n}", "1.1.1.1") for n in range(5)], limit=None)
    fair = FairQueue(queue)
    assert [begun(queue, fair) for _ in range(6)] == ["a0", "a1", "a2", "a3", "a4", None]
