"""Who is being served: what is shared by all (decoders, memory for pictures and conversations) is shared fairly.

The layer in front of the server says who it is (app/limits); in the terminal and in tests it is nobody in particular.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple


class Asker(NamedTuple):
    """`client` is an address, `visit` one of the browsers behind it."""

    client: str = ""
    visit: str = ""


NOBODY = Asker()
ASKER: ContextVar[Asker] = ContextVar("asker", default=NOBODY)
