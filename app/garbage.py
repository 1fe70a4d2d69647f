"""What is there for good is looked through no more when garbage is collected."""

from __future__ import annotations

import gc

_is_set_aside = False


def set_aside() -> None:
    """Leave all that is there now out of collections of garbage, until `collect`.

    A collection looks through everything that torch, transformers, gradio and the models hold: 0.3 s in which nobody is
    served, at any moment, the more often the more is asked.
    """
    global _is_set_aside
    _is_set_aside = True
    collect()


def collect() -> None:
    """Collect garbage, of what was set aside too. What is then left is set aside again."""
    if _is_set_aside:
        gc.unfreeze()
    gc.collect()
    if _is_set_aside:
        gc.freeze()
