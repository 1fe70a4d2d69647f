"""Scripted models for the terminal, which takes them as it takes loaded ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.chat_model import ChatModel
from models.errors import ConfigError
from tests.fakes import ScriptedModel


@dataclass
class FakeModels:
    """`known` are the models that can be switched to."""

    chat: ChatModel = field(default_factory=ScriptedModel)
    known: dict[str, ChatModel] = field(default_factory=dict)

    def names(self) -> list[str]:
        return list(self.known)

    def switch(self, name: str) -> None:
        if name not in self.known:
            raise ConfigError(f"There is no configuration {name!r}.")
        self.chat = self.known[name]
