"""Models around other models forward all that a model can do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from app.library.library import ModelLibrary
from engine.chat_model import ChatModel
from models.conversation import Sampling, Turn
from models.errors import NotLoaded
from models.routing_trace import RoutingTrace
from tests.app.library.fake_loader import FakeLoader, offer
from tests.fakes import ScriptedModel
from tests.paths import ROOT
from tests.sources import tree_of

WRAPPERS = {
    "ExtendedModel": ROOT / "app" / "extras" / "extended_model.py",
    "LibraryModel": ROOT / "app" / "library" / "leased.py",
    "Persistent": ROOT / "app" / "cluster" / "batch.py",
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_whole_interface_is_forwarded(name: str) -> None:
    """A method left out would be the interface's own, which says that the model lacks what it is for. Read, not
    imported: one of the files needs Ray."""
    interface = {one for one in vars(ChatModel) if not one.startswith("_")}
    assert {"info", "stream", "neutralise", "routing"} <= interface
    assert interface <= methods_of(WRAPPERS[name], name)


def methods_of(path: Path, name: str) -> set[str]:
    (wrapper,) = (node for node in tree_of(path).body if isinstance(node, ast.ClassDef) and node.name == name)
    return {node.name for node in wrapper.body if isinstance(node, ast.FunctionDef)}


def test_a_model_of_the_library_is_asked_for_its_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    trace = RoutingTrace.__new__(RoutingTrace)

    def routing(_: ScriptedModel, *question: object) -> RoutingTrace:
        asked.append(question)
        return trace

    monkeypatch.setattr(ScriptedModel, "routing", routing, raising=False)
    question = ([Turn("user", "hi")], "hello", Sampling())
    with ModelLibrary([offer("a")], FakeLoader()) as library:
        with pytest.raises(NotLoaded):
            library.model("a").routing(*question)
        library.load("a")
        assert library.model("a").routing(*question) is trace
    assert asked == [question]
