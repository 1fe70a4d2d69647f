"""Mini-Gemini without what its high-resolution tower adds, for `python -m training.evaluate --low-resolution`."""

from __future__ import annotations

from torch import nn

from models.errors import ConfigError
from models.parts.patch_mining import PatchMiningConnector


def leave_out_mining(connector: nn.Module) -> None:
    """Set what is mined to zero in place, to show what the high-resolution tower is for.

    Raises ConfigError for the connector of another family.
    """
    if not isinstance(connector, PatchMiningConnector):
        raise ConfigError("only Mini-Gemini has a high-resolution tower; leave --low-resolution out.")
    value = connector.get_submodule("value.1")
    assert isinstance(value, nn.Linear)
    nn.init.zeros_(value.weight)
    nn.init.zeros_(value.bias)
