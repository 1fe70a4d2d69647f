"""What importing bitsandbytes may do: no native code from a hub, and no advice to install what would fetch it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from app.extras.image_generation import ImageGenerator
from models.quantization import HUB_KERNELS
from tests.paths import ROOT

# Stands for the package that downloads and runs native code.
KERNELS = """
from pathlib import Path
from types import SimpleNamespace

def get_kernel(name, **_):
    Path(__file__).with_name("fetched").write_text(name)
    return SimpleNamespace(gemm_4bit_forward=None)
"""
# A CPU with bfloat16 instructions, on which bitsandbytes asks for a kernel: its library is told to say so.
PROGRAM = """
import ctypes

class Library(ctypes.CDLL):
    def __getattr__(self, name):
        return (lambda: True) if name == "has_avx512bf16_cpu" else super().__getattr__(name)

ctypes.CDLL = Library
ctypes.cdll = ctypes.LibraryLoader(Library)
from models.quantization import load_bitsandbytes
load_bitsandbytes()
import bitsandbytes
from bitsandbytes.functional import has_avx512bf16
assert has_avx512bf16(), "the pretended CPU is not believed"
import kernels
"""


def run(
    python: list[str], folder: Path, *, program: str = PROGRAM, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))), **environment},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to import from, with a module `kernels` that notes what it is asked for."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    return tmp_path


def test_nothing_is_fetched(python: list[str], folder: Path) -> None:
    run(python, folder)  # where others can import `kernels` afterwards
    assert not (folder / "fetched").exists()


def test_it_is_fetched_for_those_who_ask_for_it(python: list[str], folder: Path) -> None:
    """Without this, the test above might pass because bitsandbytes has changed and asks for nothing."""
    run(python, folder, **{HUB_KERNELS: "1"})
    assert (folder / "fetched").read_text() == "kernels-community/quantization-bitsandbytes"


def test_nobody_is_advised_to_install_what_would_fetch_it(python: list[str], tmp_path: Path) -> None:
    assert "kernels" not in run(python, tmp_path, program=PROGRAM.replace("import kernels\n", "")).stderr


def test_training_imports_it_the_same_way(python: list[str], folder: Path) -> None:
    """peft imports bitsandbytes itself."""
    attach = (
        "from training.stages.lora import attach_lora\ntry:\n    attach_lora(None)\nexcept AttributeError:\n    pass"
    )
    run(python, folder, program=PROGRAM.replace("load_bitsandbytes()\n", f"{attach}\n", 1))
    assert not (folder / "fetched").exists()


def test_the_command_of_training_imports_it_the_same_way(python: list[str], folder: Path) -> None:
    """accelerate imports bitsandbytes itself, before anything of training is imported."""
    command = "import runpy, sys\nsys.argv[1:] = ['--help']\n"
    command += "try:\n    runpy.run_module('training', run_name='__main__')\nexcept SystemExit:\n    pass"
    said = run(python, folder, program=PROGRAM.replace("load_bitsandbytes()\n", f"{command}\n", 1))
    assert not (folder / "fetched").exists()
    assert "usage: python -m training" in said.stdout


@pytest.mark.skipif(not ImageGenerator.is_installed(), reason='no diffusers here: pip install -e ".[generate]"')
def test_drawing_imports_it_the_same_way(python: list[str], folder: Path) -> None:
    """diffusers imports bitsandbytes itself."""
    draw = (
        "from app.extras.image_generation import load_pipeline\nfrom models.errors import MiniVLMError\n"
        "try:\n    load_pipeline('/nowhere', 'cpu')\nexcept MiniVLMError:\n    pass"
    )
    program = PROGRAM.replace("from models.quantization import load_bitsandbytes\nload_bitsandbytes()", draw)
    run(
        python,
        folder,
        program=program.replace("import bitsandbytes\n", "import sys\nassert 'bitsandbytes' in sys.modules\n"),
    )
    assert not (folder / "fetched").exists()


def test_pytorch_compiles_nothing_of_it(python: list[str], tmp_path: Path) -> None:
    """Its compiler would be imported for that, which takes a second of every start with 8 or 4 bits."""
    program = """
import torch
from models.quantization import load_bitsandbytes
asked = []
torch.compile = compiling = lambda *_, **__: asked.append(1) or (lambda function: function)
load_bitsandbytes()
assert torch.compile is compiling
print(asked)
"""
    assert run(python, tmp_path, program=program).stdout.strip() == "[]"
