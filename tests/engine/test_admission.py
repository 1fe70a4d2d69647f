"""Who is answered next: places, and a queue in front of them."""

from __future__ import annotations

import pytest

from engine.admission import Admission
from models.errors import Busy


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
