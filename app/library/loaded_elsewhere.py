"""A model of the library that another server answers for (`family: remote`): nothing is brought into memory."""

from __future__ import annotations

import time
from contextlib import ExitStack

from app.library.entry import Loaded
from app.library.offers import Offer
from app.remote.remote_config import remote_config
from app.remote.remote_model import RemoteModel
from app.remote.served_elsewhere import find_served
from engine.stats import Counters
from models.errors import RequestError, ServerLoading


class LoadedElsewhere(Loaded):
    """The connections to the other server. Raises RequestError and ConfigError where it has no such model."""

    def __init__(self, offer: Offer) -> None:
        config = remote_config(offer.path, offer.overrides, url=None, key=None, model=None)
        assert config is not None
        self._running = ExitStack()
        self._remote = RemoteModel(find_served(config, wait=_do_not_wait))
        self._running.enter_context(self._remote)
        self.model = self._remote
        self.created = int(time.time())

    def stats(self) -> Counters:
        """See Loaded."""
        return self._remote.stats()

    def changed(self) -> str:
        """See Loaded; nothing here comes from a file."""
        return ""

    def close(self) -> None:
        """See Loaded."""
        self._running.close()


def _do_not_wait(_: float) -> None:
    """Others want models meanwhile."""
    raise RequestError("The other server is still loading its model; choose it again in a moment.") from ServerLoading()
