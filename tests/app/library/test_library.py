"""What is loaded when, what makes room, and who may still answer."""

from __future__ import annotations

import threading

import pytest

from app.library.library import ModelLibrary
from models.conversation import Sampling, Turn
from models.errors import CheckpointCorrupt, NotLoaded, RequestError
from tests.app.library.fake_loader import FakeLoader, line, offer, scripted, settle, state
from tests.waiting import eventually

TURNS = [Turn("user", "hi")]


def answer(library: ModelLibrary, name: str) -> str:
    return list(library.model(name).stream(TURNS, Sampling()))[-1].text


def test_one_after_the_other_and_all_that_fit_stay() -> None:
    with ModelLibrary([offer("a"), offer("b")], FakeLoader()) as library:
        library.load("a")
        assert (state(library, "a"), state(library, "b")) == ("loaded", "here")
        assert answer(library, "a") == "A red circle and a blue square."
        library.want("b")
        settle(library)
        assert list(library.loaded()) == ["a", "b"]
        assert line(library, "b") == "Memory in use: 10 MiB before, 20 MiB now."


def test_progress_is_the_share_of_the_bytes_and_a_second_wish_changes_nothing() -> None:
    loader = FakeLoader(gate=threading.Semaphore(0))
    with ModelLibrary([offer("a"), offer("b")], loader) as library:
        assert loader.gate is not None
        entry = library.want("a")
        library.want("b")
        library.want("a")
        assert eventually(lambda: entry.state == "loading")
        assert state(library, "b") == "waiting"
        loader.gate.release()
        assert eventually(lambda: entry.progress == 0.25)
        loader.gate.release(7)
        settle(library)
        assert (entry.progress, state(library, "b")) == (1.0, "loaded")


def test_what_was_unused_for_longest_makes_room() -> None:
    with ModelLibrary([offer(name) for name in "abc"], FakeLoader(), max_loaded=2) as library:
        library.load("a")
        library.load("b")
        answer(library, "a")
        library.want("c")
        settle(library)
        assert sorted(library.loaded()) == ["a", "c"]


def test_what_is_kept_for_a_comparison_makes_no_room() -> None:
    with ModelLibrary([offer("a", 60), offer("b", 60), offer("c")], FakeLoader(), max_loaded=2) as library:
        library.load("a")
        library.want("b", keeping=["a"])
        settle(library)
        assert line(library, "b").startswith("B does not fit beside A: it needs about 60 MiB on cpu, 40 MiB are free.")
        library.want("c", keeping=["a"])
        settle(library)
        assert sorted(library.loaded()) == ["a", "c"]
        library.want("b", keeping=["a", "c"])
        settle(library)
        assert state(library, "b") == "here"
        library.want("b")
        settle(library)
        assert sorted(library.loaded()) == ["b", "c"]


def test_at_most_so_many_even_beside_what_is_kept() -> None:
    with ModelLibrary([offer("a"), offer("b")], FakeLoader(), max_loaded=1) as library:
        library.load("a")
        library.want("b", keeping=["a"])
        settle(library)
        assert line(library, "b") == "B can't be loaded beside A: --max-loaded is 1."
        assert list(library.loaded()) == ["a"]


def test_running_answers_end_before_their_model_goes_and_new_ones_are_refused() -> None:
    with ModelLibrary([offer("a", 60), offer("b", 60)], loader := FakeLoader()) as library:
        library.load("a")
        model = scripted(library, "a")
        model.gate = threading.Semaphore(2)
        stream = library.model("a").stream(TURNS, Sampling())
        next(stream)
        library.want("b")
        assert eventually(lambda: state(library, "a") == "unloading")
        with pytest.raises(NotLoaded, match=r"A is not in memory now\. It is being loaded: ask again"):
            library.model("a").stream(TURNS, Sampling())
        first = loader.made["a"]
        assert not first.is_closed
        model.open_gate()
        assert list(stream)[-1].finish_reason == "stop"
        assert eventually(lambda: first.is_closed)
        settle(library)  # the refused question wants `a` back
        assert (state(library, "a"), state(library, "b")) == ("loaded", "here")


@pytest.mark.parametrize("end", ["close", "error", "abandoned before the first word"])
def test_an_answer_that_ends_in_any_way_gives_its_model_back(end: str) -> None:
    with ModelLibrary([offer("a"), offer("b")], FakeLoader(), max_loaded=1) as library:
        library.load("a")
        scripted(library, "a").script = [RequestError("no")] if end == "error" else ["one two three"]
        stream = library.model("a").stream(TURNS, Sampling())
        if end == "error":
            with pytest.raises(RequestError, match="no"):
                list(stream)
        elif end == "close":
            next(stream)
        stream.close()
        stream.close()
        library.want("b")
        settle(library)
        assert list(library.loaded()) == ["b"]


def test_what_never_fits_is_refused_before_anything_goes() -> None:
    with ModelLibrary([offer("a"), offer("huge", 500)], FakeLoader()) as library:
        library.load("a")
        library.want("huge")
        settle(library)
        assert list(library.loaded()) == ["a"]
        assert line(library, "huge") == (
            "Huge does not fit: it needs about 500 MiB on cpu, 90 MiB are free, and unloading others gives 10 MiB "
            "back. Choose a smaller model, or start with --quantization 4bit."
        )


def test_what_is_not_here_says_so_and_what_is_damaged_can_be_tried_again() -> None:
    loader = FakeLoader(damaged={"b"})
    with ModelLibrary([offer("away", problem="Not here: x. Fetch: y"), offer("b")], loader) as library:
        with pytest.raises(RequestError, match=r"Away can't be loaded\. Not here: x\. Fetch: y"):
            library.want("away")
        with pytest.raises(RequestError, match="There is no model 'c' here"):
            library.want("c")
        with pytest.raises(CheckpointCorrupt):
            library.load("b")
        library.want("b")
        settle(library)
        assert (state(library, "b"), line(library, "b")) == ("here", "b.pth is cut off.")
        loader.damaged.clear()
        library.want("b")
        settle(library)
        assert state(library, "b") == "loaded"


def test_a_model_whose_file_changed_answers_no_more() -> None:
    with ModelLibrary([offer("a"), offer("b")], loader := FakeLoader()) as library:
        library.load("a")
        library.load("b")
        loader.made["a"].file_changed = "a.pth was changed."
        assert (library.look(), library.look()) == (["a.pth was changed."], [])
        with pytest.raises(NotLoaded, match=r"A can't answer\. a\.pth was changed\. The server must be started"):
            answer(library, "a")
        assert answer(library, "b")


def test_closing_waits_for_no_download_and_closes_all() -> None:
    loader = FakeLoader(gate=threading.Semaphore(0))
    with ModelLibrary([offer("a"), offer("b")], loader) as library:
        assert loader.gate is not None
        loader.gate.release(4)
        library.load("a")
        entry = library.want("b")
        assert eventually(lambda: entry.state == "loading")
        threading.Timer(0.05, loader.gate.release).start()
    assert loader.made["a"].is_closed
    assert "b" not in loader.made
    with pytest.raises(RequestError, match="being stopped"):
        library.want("b")
