"""C code of this program as a library: compiled once by the machine's own compiler, for its own instructions.

It is kept in the user's cache, under a name that is a hash of the code, of the compiler and of what the CPU can do.
Only a folder and a file that belong to this user, and that nobody else can write to, are used.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-lm")
_SECONDS = 120  # that compiling may take
SWITCH = "MINIVLM_NATIVE"  # a variable of the environment; "off" leaves all steps to PyTorch


class NoNativeCode(Exception):
    """There is no compiled code here; the message says why."""


@cache
def library(source: Path) -> ctypes.CDLL:
    """What is compiled from this file, and from the headers beside it. Raises NoNativeCode."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no"):
        raise NoNativeCode(f"{SWITCH} is off")
    is_known = sys.platform == "linux" and platform.machine() == "x86_64"
    if not is_known or torch.backends.cpu.get_cpu_capability() != "AVX512":
        raise NoNativeCode("it is for Linux on processors with AVX-512")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise NoNativeCode("there is no C compiler (apt install gcc)")
    try:
        return _load(compiler, source, own_folder())
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: a user without a home
        raise NoNativeCode(f"it could not be compiled: {str(error).strip().splitlines()[-1]}") from error


def library_or_none(source: Path) -> ctypes.CDLL | None:
    """The same, or None, for what PyTorch computes otherwise: the reason is said once, where the engine starts."""
    try:
        return library(source)
    except NoNativeCode:
        return None


def address(place: Tensor | int | None) -> ctypes.c_void_p:
    """Where a tensor's numbers are, as C is given it."""
    return ctypes.c_void_p(place.data_ptr() if isinstance(place, Tensor) else place)


def own_folder() -> Path:
    """Where compiled code is kept, for this user alone. Raises NoNativeCode, OSError."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "minivlm-chat" / "native"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_own(folder, stat.S_ISDIR)
    return folder


def _check_own(path: Path, is_kind: Callable[[int], bool]) -> None:
    """Raise NoNativeCode where somebody else could have put code there."""
    found = path.lstat()
    if not is_kind(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise NoNativeCode(f"{path} is not this user's alone; delete it")


def _load(compiler: str, source: Path, folder: Path) -> ctypes.CDLL:
    path = folder / f"{source.stem}-{_fingerprint(compiler, source)}.so"
    if not path.exists():
        _compile(compiler, source, path)
    _check_own(path, stat.S_ISREG)
    return ctypes.CDLL(str(path))


def _fingerprint(compiler: str, source: Path) -> str:
    """Of all that the compiled code depends on."""
    parts = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    parts.append(repr(_FLAGS).encode())
    parts.append(subprocess.run([compiler, "--version"], capture_output=True, timeout=_SECONDS, check=True).stdout)
    with open("/proc/cpuinfo", "rb") as lines:
        parts.append(next((line for line in lines if line.startswith(b"flags")), b""))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def _compile(compiler: str, source: Path, path: Path) -> None:
    """Into a file of its own first, so that another process meets a whole one or none."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        done = subprocess.run(
            [compiler, str(source), *_FLAGS, "-o", name], capture_output=True, text=True, timeout=_SECONDS
        )
        if done.returncode:
            raise OSError(done.stderr.strip() or f"{compiler} ended with {done.returncode}")
        os.chmod(name, 0o700)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
