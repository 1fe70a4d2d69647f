"""Each peer's own virtual environment, with exact versions, made once; one that can't be had is one line."""

from __future__ import annotations

import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

_NUMPY = "numpy==2.4.6"
_GGUF = "gguf==0.19.0"


@dataclass(frozen=True, kw_only=True)
class PeerKind:
    """A peer: its name in tables, what is installed for it (nothing: it runs here), and its precisions on a CPU."""

    name: str
    packages: tuple[str, ...]
    precisions: tuple[str, ...]

    @property
    def module(self) -> str:
        """What answers for it."""
        return f"benchmarks.peers.{self.name.lower().replace('.', '_').split()[0]}_peer"


PRECISIONS = ("fp32", "16bit", "8bit", "4bit")
OURS = PeerKind(name="ours", packages=(), precisions=PRECISIONS)
# llama-cpp-python is built from its source: with a compiler, in five minutes of one core.
PEERS = (
    PeerKind(name="llama.cpp", packages=("llama-cpp-python==0.3.36", _GGUF, _NUMPY), precisions=PRECISIONS),
    PeerKind(name="CTranslate2", packages=("ctranslate2==4.8.5", _NUMPY), precisions=("fp32", "8bit")),
    PeerKind(
        name="OpenVINO", packages=("openvino-genai==2026.4.1.0", "nncf==3.4.0", _GGUF, _NUMPY), precisions=PRECISIONS
    ),
)


class PeerMissing(Exception):
    """A peer that can't be had here; the message is one line."""


def python_of(peer: PeerKind, folder: Path) -> Path:
    """The Python that runs a peer, its environment made where it is not there. Raises PeerMissing."""
    if not peer.packages:
        return Path(sys.executable)
    place = folder / peer.name
    python, done = place / "bin" / "python", place / "installed.txt"
    wanted = "\n".join(peer.packages)
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return python
    print(f"{peer.name}: installing {', '.join(peer.packages)}", flush=True)
    start = time.perf_counter()
    venv.create(place, with_pip=True, clear=True)
    log = folder / f"{peer.name}.log"
    with log.open("w", encoding="utf-8") as output:
        command = [str(python), "-m", "pip", "install", *peer.packages]
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if code != 0:
        raise PeerMissing(f"{peer.name} could not be installed and is left out; pip's output is in {log}.")
    done.write_text(wanted, encoding="utf-8")
    print(f"{peer.name}: installed in {time.perf_counter() - start:.0f} s", flush=True)
    return python
