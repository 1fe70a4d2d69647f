"""docs/training.md says what each full-size recipe takes: as its stage and the released sizes have it."""

from __future__ import annotations

from tests.training.memory import DOCUMENT, MARKS, Count, table


def test_the_table_of_memory_is_what_is_counted() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    written = text.split(MARKS[0])[1].split(MARKS[1])[0]
    assert written.splitlines() == table(), "write it with: python -m tests.training.memory"


def test_what_is_spread_over_more_gpus_is_less() -> None:
    """Seven billion values that learn take 16 bytes each on one GPU."""
    count = Count(learning=7 * 2**30, frozen=0, largest=2**28)
    assert count.one() == 112
    assert count.zero3() < count.zero2() < count.one()
    assert count.fsdp() == 112 / 8 + 0.5
