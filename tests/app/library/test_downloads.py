"""What the page fetches of a model: from a local hub, with every byte counted, stopped, and gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.library.downloads import STOPPED, Downloads
from app.library.library import ModelLibrary
from app.library.offers import find_offers
from models.errors import RequestError
from tests.app.library.fake_loader import FakeLoader, line, offer, state
from tests.models.fetching.conftest import checkpoints_dir, config, hub  # noqa: F401
from tests.models.fetching.local_hub import Hub
from tests.models.fetching.three_files import EVA, LLM, NEEDED, SPACE, STAGE
from tests.waiting import eventually


@pytest.fixture
def library(config: Path) -> Iterator[ModelLibrary]:  # noqa: F811
    with ModelLibrary([*find_offers([config]), offer("other")], FakeLoader()) as library:
        yield library


def test_what_is_missing_comes_and_can_then_be_loaded(library: ModelLibrary, hub: Hub) -> None:  # noqa: F811
    hub.pause = 0.002
    entry = library.entry("model")
    assert entry.offer.lacks_files
    assert "Not here: language_model (someone/llama), " in entry.line
    with Downloads(library) as downloads:
        assert downloads.want("model") is downloads.want("model") is entry
        with pytest.raises(RequestError, match="is being downloaded"):
            library.want("model")
        assert library.is_busy
        seen = set()
        while entry.state == "downloading":
            seen.add(round(entry.progress, 1))
            library.wait(1)
        assert len(seen) > 3
    assert entry.num_bytes == len(EVA) + len(STAGE) + sum(len(LLM[name]) for name in NEEDED)
    assert (entry.state, entry.offer.problem, entry.line) == ("here", "", "")
    library.want("model")
    assert eventually(lambda: state(library, "model") == "loaded")
    with pytest.raises(RequestError, match="lacks no files"):
        downloads.want("model")


def test_a_stopped_one_goes_on_where_it_was(library: ModelLibrary, hub: Hub) -> None:  # noqa: F811
    shard = "someone/llama/model-00001-of-00002.safetensors"
    hub.pause = 0.01
    with Downloads(library) as downloads:
        entry = downloads.want("model")
        assert eventually(lambda: entry.progress > 0.05)
        downloads.stop("model")
        assert eventually(lambda: entry.state == "not here")
        assert entry.line == STOPPED
        hub.pause = 0
        downloads.want("model")
        assert eventually(lambda: entry.state == "here")
    assert any(wanted.startswith("bytes=") for wanted in hub.downloads(shard))


def test_what_goes_wrong_is_one_line(library: ModelLibrary, hub: Hub) -> None:  # noqa: F811
    hub.refused["someone/llama"] = (403, "GatedRepo")
    del hub.files[SPACE]
    with Downloads(library) as downloads:
        downloads.want("model")
        assert eventually(lambda: state(library, "model") == "not here")
        assert "is not complete" in line(library, "model")
        assert "\n" not in line(library, "model")
        with pytest.raises(RequestError, match="lacks no files"):
            downloads.want("other")
        with pytest.raises(RequestError, match="no model"):
            downloads.want("nonsense")
