"""Real engines in the library: the bundled models, one after the other, and their memory."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path

import pytest
from PIL import Image

from app import garbage
from app.library.engine_loader import EngineLoader, LoadingOptions
from app.library.library import ModelLibrary
from app.library.offers import find_offers
from models import devices
from models.command_line import CONFIG_DIR
from models.conversation import Sampling, Turn
from models.errors import NotEnoughMemory
from tests.tiny_model import quick_process

NAMES = ("tiny_minigpt_v2", "tiny_moe_llava")
TURNS = [Turn("user", "What is this?", (Image.new("RGB", (144, 144), "red"),))]


def library_of(*names: str, max_loaded: int | None = None) -> ModelLibrary:
    offers = find_offers([CONFIG_DIR / f"{name}.yaml" for name in names])
    loader = EngineLoader(LoadingOptions(device="cpu", overrides=("max_chats=2",)), report=lambda _: None)
    return ModelLibrary(offers, loader, max_loaded=max_loaded)


def num_mapped(name: str) -> int:
    """How often this process has mapped files of a bundled model; 0 where Linux does not say."""
    return Path("/proc/self/maps").read_text().count(f"checkpoints/{name}") if sys.platform == "linux" else 0


def test_an_unloaded_model_leaves_nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    before = num_mapped(NAMES[0])
    monkeypatch.setattr(garbage, "_is_set_aside", False)
    with quick_process(), library_of(*NAMES, max_loaded=1) as library:
        library.load(NAMES[0])
        garbage.set_aside()  # as the server does
        shares = [0.0]
        stream = library.model(NAMES[0]).stream(TURNS, Sampling(temperature=0, max_new_tokens=5))
        assert list(stream)[-1].text
        (loaded,) = library.loaded().values()
        engine = loaded.model
        model = engine._model  # type: ignore[attr-defined]
        gone = [weakref.ref(engine), weakref.ref(model), *map(weakref.ref, model.parameters())]
        cache = engine._loop._manager.batch_processor.cache  # type: ignore[attr-defined]
        gone.append(weakref.ref(cache))
        del loaded, engine, model, cache
        library.load(NAMES[1])
        shares += [entry.progress for entry in library.entries]
        gc.collect()
        assert [one() for one in gone if one() is not None] == []  # although `stream` is still held
        assert num_mapped(NAMES[0]) <= before  # other tests of this process may have it loaded
        assert shares == [0.0, 1.0, 1.0]
        assert list(library.model(NAMES[1]).stream(TURNS, Sampling(temperature=0, max_new_tokens=5)))[-1].text


def test_what_the_device_has_no_room_for_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda _: 2**20)
    with library_of(NAMES[0]) as library, pytest.raises(NotEnoughMemory) as caught:
        library.load(NAMES[0])
    assert str(caught.value) == (
        "Tiny MiniGPT-v2 does not fit: it needs about 7 MiB on cpu, 1 MiB are free. Choose a smaller model, or start "
        "with --quantization 4bit."
    )
