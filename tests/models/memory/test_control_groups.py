"""What a container's limit leaves, as Linux says it: versions 1 and 2, and groups inside of groups."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from models.devices import free_bytes
from models.memory import control_groups

V1, V2 = "memory.limit_in_bytes memory.usage_in_bytes total_", "memory.max memory.current "


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 60 GiB of free memory, whose groups are a folder's."""
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path)
    monkeypatch.setattr(control_groups, "_OWN", tmp_path / "own")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=60 << 30))
    return tmp_path


def write(folder: Path, version: str, limit: str, *, used: int, cached: int = 0) -> None:
    """A group as the system shows it; `used` and `cached` in GiB."""
    limit_file, used_file, counted = version.split(" ")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / used_file).write_text(f"{used << 30}\n")
    counters = {"active_file": 1 << 30, "inactive_file": (cached - 1) << 30} if cached else {}
    counters = {"active_file": 0, "inactive_file": 0, "anon": 1 << 30} | counters
    lines = [f"{counted}{name} {count}" for name, count in counters.items()]
    if counted:  # of this group alone, which says nothing of those inside
        lines += [f"{name} 0" for name in counters]
    (folder / "memory.stat").write_text("\n".join(lines) + "\n")


def free() -> int:
    """In GiB."""
    return free_bytes(torch.device("cpu")) >> 30


@pytest.mark.parametrize(("version", "place"), [(V2, "."), (V1, "memory")], ids=["2", "1"])
def test_pages_that_a_container_caches_are_free(version: str, place: str, groups: Path) -> None:
    """They are counted as used: after a checkpoint was read once, all that is left of the limit may be cached."""
    write(groups / place, version, str(32 << 30), used=31, cached=29)
    assert free() == 30
    write(groups / place, version, {V2: "max", V1: str(2**63 - 4096)}[version], used=31, cached=29)
    assert free() == 60


@pytest.mark.parametrize(("version", "place", "line"), [(V2, ".", "0::"), (V1, "memory", "4:memory:")], ids=["2", "1"])
def test_of_nested_groups_the_tightest_counts(version: str, place: str, line: str, groups: Path) -> None:
    """A service with a limit, as systemd starts it, is in no container."""
    write(groups / place, version, str(50 << 30), used=10)
    write(groups / place / "system.slice", version, str(20 << 30), used=6)
    write(groups / place / "system.slice" / "chat.service", version, str(40 << 30), used=6)
    assert free() == 40
    (groups / "own").write_text(f"3:cpu:/\n{line}/system.slice/chat.service\n")
    assert free() == 14


def test_groups_that_say_nothing_limit_nothing(groups: Path) -> None:
    (groups / "own").write_text("0::/nowhere\n")
    (groups / "memory.max").write_text("nonsense")
    assert free() == 60
