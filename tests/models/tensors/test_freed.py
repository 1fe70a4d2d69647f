"""Memory that a step frees and the next one takes."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.paths import ROOT

# Three pieces at a time, beyond what glibc keeps by itself after a first one; the pages that the system gave for them.
PROGRAM = """
import resource
from models.tensors.freed import keep_some_freed_memory
if {keeps}:
    keep_some_freed_memory()
def take():
    return [bytearray(15 << 20) for _ in range(3)]
bytearray(16 << 20)
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_taken(*, keeps: bool) -> int:
    command = [sys.executable, "-c", PROGRAM.format(keeps=keeps)]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_what_a_step_frees_is_there_for_the_next() -> None:
    assert 10 * pages_taken(keeps=True) < pages_taken(keeps=False)
