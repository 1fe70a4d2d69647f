"""What a Space of each kind gets: settings in its README, requirements, how the program is started."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A Space installs gradio with its server, and the hub's client, at versions that it pins itself. Naming these once more
# could only contradict it: gradio[mcp], which it installs, wants an older pydantic than gradio alone.
BROUGHT_BY_THE_SPACE = frozenset({"fastapi", "gradio", "huggingface-hub", "pydantic", "starlette", "uvicorn"})


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One kind of Space. `torch` is a line of requirements, None for the version that is tested everywhere."""

    hardware: str  # by the hub's name of it; a suggestion to whoever duplicates the Space
    python: str
    torch: str | None = None
    arguments: tuple[str, ...] = ()  # of demo.py
    first_import: str | None = None
    extra_packages: tuple[str, ...] = ()


LANES = {
    "cpu": Lane(hardware="cpu-basic", python="3.12", arguments=("--device", "cpu")),
    "gpu": Lane(hardware="l4x1", python="3.12", arguments=("--device", "cuda")),
    # ZeroGPU has the torch and Python versions of a list; these are the newest on it (November 2026).
    "zerogpu": Lane(
        hardware="zero-a10g",
        python="3.12.12",
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
