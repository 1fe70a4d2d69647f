"""The one model of a terminal chat, which another may take the place of."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

from app.config_list import config_names, find_config
from engine.chat_model import ChatModel
from models.config import load_config
from models.errors import CheckpointMissing, MiniVLMError, RequestError
from models.fetching.checkpoints import describe_missing, needed_files

Open = Callable[[Path], AbstractContextManager[ChatModel]]


class ModelSlot:
    """Holds what `open_model` makes of a YAML, from the `with` block's start to its end."""

    def __init__(self, open_model: Open, config: Path) -> None:
        self._open = open_model
        self._config = config
        self._stack = ExitStack()
        self._chat: ChatModel | None = None

    def __enter__(self) -> ModelSlot:
        self._load(self._config)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._unload()

    @property
    def chat(self) -> ChatModel:
        """The model that answers. Raises RequestError where one could not be loaded, nor the one before."""
        if self._chat is None:
            raise RequestError("No model is loaded; /model NAME loads one.")
        return self._chat

    def names(self) -> list[str]:
        """The configurations that ship."""
        return config_names()

    def switch(self, name: str) -> None:
        """Unload the model, and load that of another configuration, by its name or file.

        Raises MiniVLMError, before anything is unloaded, for a name that is none and files that are not here. If
        loading fails, or Ctrl-C ends it, the model before is loaded again.
        """
        config = find_config(name)
        loaded = load_config(config)
        if missing := [file for file in needed_files(loaded) if file.state != "here"]:
            raise CheckpointMissing(describe_missing(loaded, missing))
        self._unload()
        try:
            self._load(config)
        except (MiniVLMError, KeyboardInterrupt):
            self._load(self._config)
            raise
        self._config = config

    def _load(self, config: Path) -> None:
        self._chat = self._stack.enter_context(self._open(config))

    def _unload(self) -> None:
        self._chat = None
        self._stack.close()
        gc.collect()  # a model's parts refer to each other
