"""What a Space of each kind gets: settings in its README, requirements, how the program is started."""

from __future__ import annotations

import re
from dataclasses import dataclass

from models.memory.serving import size

# A Space installs gradio with its server, and the hub's client, at versions that it pins itself. Naming these once more
# could only contradict it: gradio[mcp], which it installs, wants an older pydantic than gradio alone.
BROUGHT_BY_THE_SPACE = frozenset({"fastapi", "gradio", "huggingface-hub", "pydantic", "starlette", "uvicorn"})


@dataclass(frozen=True)
class Hardware:
    """What a Space can run on: the hub's name of it, how people call it, and its memory for a model in GiB."""

    name: str
    called: str
    gib: float

    @property
    def room(self) -> int:
        """Bytes that weights may take, and what is needed to work with them."""
        return round(self.gib * 2**30)

    def __str__(self) -> str:
        return f"{self.called} ({size(self.room)} for a model)"


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One kind of Space. `torch` is a line of requirements, None for the version that is tested everywhere.

    `hardware`, the smallest first, is a suggestion to whoever duplicates the Space. `precisions` are what a model may
    be loaded in, the best first; the arguments of demo.py say which where `sets_precision`.
    """

    hardware: tuple[Hardware, ...]
    python: str
    precisions: tuple[str, ...]
    has_gpu: bool = True
    sets_precision: bool = False
    torch: str | None = None
    arguments: tuple[str, ...] = ()  # of demo.py
    first_import: str | None = None
    extra_packages: tuple[str, ...] = ()


# Of the 16 GB of the free CPU the program and the system have two; CUDA and one chat have one of a GPU's, of whose
# GB the driver shows some less.
LANES = {
    "cpu": Lane(
        hardware=(Hardware("cpu-basic", "the free CPU", 12.9),),
        python="3.12",
        precisions=("float32", "16 bit", "4bit"),
        has_gpu=False,
        arguments=("--device", "cpu"),
    ),
    "gpu": Lane(
        hardware=(
            Hardware("l4x1", "an L4", 21.5),
            Hardware("l40sx1", "an L40S", 44.0),
            Hardware("a100-large", "an A100", 78.2),
        ),
        python="3.12",
        precisions=("16 bit", "8bit", "4bit"),
        arguments=("--device", "cuda"),
    ),
    # ZeroGPU has the torch and Python versions of a list; these are the newest on it (November 2026).
    "zerogpu": Lane(
        hardware=(Hardware("zero-a10g", "ZeroGPU", 46.5),),
        python="3.12.12",
        precisions=("16 bit",),
        sets_precision=True,
        torch="torch==2.11.0",
        # It is moved to the GPU in each worker: app/spaces/zero_gpu.py. What fits 16 bits of a GPU is not shrunk.
        arguments=("--device", "cpu", "--dtype", "bfloat16", "--quantization", "none"),
        first_import="spaces",
        extra_packages=("spaces>=0.51",),
    ),
}


def requirements(pinned: str, lane: Lane, index: str | None = None) -> str:
    """The Space's requirements.txt, made from the project's; `index` is one of packages beside the usual."""
    lines = [line for line in pinned.splitlines() if re.match(r"\w", line)]
    kept = [line for line in lines if re.split(r"[=<>]", line)[0] not in BROUGHT_BY_THE_SPACE]
    if lane.torch:
        kept = [lane.torch if line.startswith("torch==") else line for line in kept]
    options = [f"--extra-index-url {index}"] if index else []
    return "\n".join([*options, *kept, *lane.extra_packages]) + "\n"


def version_of(package: str, pinned: str) -> str:
    """The exact version in a requirements file."""
    found = re.search(rf"^{re.escape(package)}==(\S+)$", pinned, re.MULTILINE)
    assert found, f"requirements.txt has no version of {package}"
    return found[1]
