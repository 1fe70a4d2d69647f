"""C code is compiled once, kept where nobody else can put any, and its lack has a reason of one line."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.native import compiled
from models.native.compiled import SWITCH, NoNativeCode, library, own_folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and nothing of it in the next test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(SWITCH, raising=False)
    library.cache_clear()
    yield tmp_path / "minivlm-chat" / "native"
    library.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten lines less than nothing."""
    path = tmp_path / "answer.c"
    path.write_text("int answer(void) { return 42; }\n", encoding="utf-8")
    return path


def why_not(source: Path) -> str:
    with pytest.raises(NoNativeCode) as caught:
        library(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def compiles_here() -> bool:
    found = shutil.which(os.environ.get("CC", "cc"))
    return found is not None and compiled.torch.backends.cpu.get_cpu_capability() == "AVX512"


needs_compiler = pytest.mark.skipif(not compiles_here(), reason="no C compiler, or no AVX-512, on this machine")


@needs_compiler
def test_compiled_once(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library(source).answer() == 42
    (kept,) = folder.iterdir()
    assert kept.stat().st_mode & 0o077 == folder.stat().st_mode & 0o077 == 0
    library.cache_clear()
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("compiled again"))
    assert library(source).answer() == 42


@needs_compiler
def test_other_code_is_another_file(source: Path, folder: Path) -> None:
    library(source)
    source.with_name("beside.h").write_text("#define WHAT 43\n", encoding="utf-8")
    library.cache_clear()
    library(source)
    source.write_text('#include "beside.h"\nint answer(void) { return WHAT; }\n', encoding="utf-8")
    library.cache_clear()
    assert library(source).answer() == 43
    assert len(list(folder.iterdir())) == 3


@needs_compiler
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o702])
def test_a_folder_that_others_can_open_is_not_used(source: Path, folder: Path, mode: int) -> None:
    own_folder().chmod(mode)
    assert str(folder) in why_not(source)
    assert list(folder.iterdir()) == []


@needs_compiler
def test_a_file_that_others_can_write_is_not_loaded(source: Path, folder: Path) -> None:
    library(source)
    (kept,) = folder.iterdir()
    kept.chmod(0o722)
    library.cache_clear()
    assert str(kept) in why_not(source)


@needs_compiler
def test_somebody_elses_folder_is_not_used(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_folder()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert str(folder) in why_not(source)


@needs_compiler
def test_a_link_to_another_folder_is_not_followed(source: Path, folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(elsewhere)
    assert str(folder) in why_not(source)


@needs_compiler
def test_code_that_does_not_compile(source: Path, folder: Path) -> None:
    source.write_text("int answer(void) { return }\n", encoding="utf-8")
    assert "could not be compiled" in why_not(source)
    assert list(folder.iterdir()) == []


@needs_compiler
def test_a_compiler_that_hangs(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, 120)

    monkeypatch.setattr(subprocess, "run", hang)
    assert "could not be compiled" in why_not(source)
    assert list(folder.iterdir()) == []


def test_no_compiler(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("sys.platform", "linux")
    assert why_not(source) == "there is no C compiler (apt install gcc)"


def test_another_processor(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    assert "AVX-512" in why_not(source)


def test_switched_off(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    assert why_not(source) == f"{SWITCH} is off"


@needs_compiler
def test_a_user_without_a_home(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under any number."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**30)
    assert why_not(source).startswith("it could not be compiled: ")
