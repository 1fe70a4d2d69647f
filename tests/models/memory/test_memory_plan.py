"""The line about memory that is printed before anything is allocated."""

from __future__ import annotations

from models.memory.memory_plan import MemoryPlan
from models.memory.sizes import KeysAndValues

MIB, GIB = 2**20, 2**30


def test_the_line_says_all_of_it() -> None:
    plan = MemoryPlan(
        program=GIB // 2,
        weights=7 * GIB,
        loading=15 * GIB // 2,
        keys_and_values=KeysAndValues(chats=1, num_bytes=2 * GIB, one_chat=GIB),
        images=100 * MIB,
        context_tokens=2000,
    )
    assert plan.line() == (
        "Memory: 7.0 GiB of weights (7.5 GiB at the worst moment of loading), 100 MiB for images, up to 2.0 GiB of "
        "keys and values for 1 chat at once, taken as they grow to 2000 tokens each (--max-chats, --kv-memory, "
        "--context-tokens); with the program 9.6 GiB at most."
    )
