"""A YAML of a server elsewhere is one of the models."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.api.metrics import as_text
from app.config_list import describe_configs
from app.library.engine_loader import EngineLoader, LoadingOptions
from app.library.library import ModelLibrary
from app.library.offers import configs_in, find_offers
from engine.stats import EngineStats
from models.conversation import Sampling, Turn
from tests.app.far_server import far_server
from tests.app.library.fake_loader import line, settle, state


def yaml_of(folder: Path, url: str) -> Path:
    path = folder / "there.yaml"
    path.write_text(f"family: remote\nname: Over there\nserver_url: {url}\nserver_model: qwen\n")
    return path


def test_it_is_offered_asked_and_let_go(tmp_path: Path) -> None:
    with far_server() as far:
        far.models = {"data": [{"id": "qwen"}]}
        yaml_of(tmp_path, far.url)
        (offer,) = find_offers(configs_in(tmp_path))
        assert (offer.name, offer.family, offer.problem) == ("Over there", "remote", "")
        loader = EngineLoader(LoadingOptions(), report=lambda _: None)
        with ModelLibrary([offer], loader) as library:
            library.want("there")
            settle(library)
            assert state(library, "there") == "loaded", line(library, "there")
            far.say("a ", "dog")
            answers = list(library.model("there").stream([Turn("user", "what?")], Sampling()))
            assert answers[-1].text == "a dog"
            assert library.model("there").info.device == offer.server
            empty = EngineStats(**dict.fromkeys(EngineStats.__dataclass_fields__, 0))
            text = as_text({"here": empty, **library.stats()})
            assert 'minivlm_active{model="there"} 0' in text
            assert 'minivlm_waiting{model="here"} 0' in text
            assert 'minivlm_waiting{model="there"}' not in text


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    offers = find_offers([yaml_of(tmp_path, "http://127.0.0.1:9/v1")])
    with ModelLibrary(offers, EngineLoader(LoadingOptions(), report=lambda _: None)) as library:
        library.want("there")
        settle(library)
        assert state(library, "there") == "here"
        assert line(library, "there").startswith("Nothing answers at http://127.0.0.1:9/v1")


def test_the_list_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    yaml_of(tmp_path, "http://host:8000")
    assert describe_configs(["ready"], folder=tmp_path) == (
        "there.yaml  [ready]\n  Over there (remote)\n  Asks qwen at http://host:8000/v1"
    )
