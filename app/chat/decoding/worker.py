"""The process that decodes pictures: files come in on standard input, pixels go out on standard output.

It imports little (Pillow, numpy, psutil), limits itself before it reads a file, and may be killed at any moment. A
request is the number of bytes (8 of them, big-endian) and the file; the answer is a line of JSON and, if it has a
"size", the pixels. pool.py is the other side.
"""

from __future__ import annotations

import io
import json
import os
import select
import struct
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from app.chat.decoding.decode import DecodeError, decode
from models.memory.control_groups import free_memory

MAX_MEMORY = 1536 * 2**20  # bytes of address space that decoding may add: about 50 megapixels in three forms
LEAST_MEMORY = 256 * 2**20  # however little is free: two photos of 12 megapixels
OF_FREE = 1 / 2  # of the machine's or the container's memory: two may decode at once
MAX_SECONDS = 20  # of processor time a picture may take; a photo of 200 megapixels takes about 2
IDLE = 600.0  # seconds without a request after which the process ends

_LENGTH = struct.Struct(">Q")


def main() -> None:
    """Serve requests until the input ends or none has come for a while."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    silence()
    go_first()
    load_decoders()
    used = _address_space()
    while wait_for(requests):
        length = requests.read(_LENGTH.size)
        if len(length) < _LENGTH.size:
            return
        limit_memory(used)
        data = requests.read(*_LENGTH.unpack(length))
        limit_time()
        try:
            answer(data, answers)
        except BrokenPipeError:  # the server was killed meanwhile
            os._exit(0)  # or the interpreter tries to write what is left, and says that it can't


def silence() -> None:
    """What decoders print goes nowhere: neither into the pixels nor, for each file of a stranger, into the log.

    A traceback of this program itself is still written where errors go.
    """
    warnings.simplefilter("ignore")
    sys.stderr = os.fdopen(os.dup(2), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def load_decoders() -> None:
    """Decode two small pictures, so that nobody's picture is the one for which libraries are loaded."""
    for kind in ("PNG", "JPEG"):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, kind)
        decode(file.getvalue())


def answer(data: bytes, answers: BinaryIO) -> None:
    """Decode one file and write what came of it."""
    try:
        decoded = decode(data)
        header: dict[str, Any] = {
            "size": decoded.image.size,
            "original_size": decoded.original_size,
            "shows_alike": decoded.shows_alike,
        }
        pixels = decoded.image.tobytes()
    except DecodeError as error:
        header, pixels = {"error": str(error)}, b""
    except MemoryError:
        header, pixels = {"error": "needs too much memory to be read. Scale it down and upload it again."}, b""
    answers.write(json.dumps(header).encode() + b"\n")
    answers.write(pixels)
    answers.flush()


def limit_memory(used: int) -> None:
    """From now on an allocation fails, where the system can see to that, beyond `used` bytes and MAX_MEMORY more.

    Where less is free, that is less: a container in which memory ends may be ended as a whole.
    """
    try:
        import resource
    except ImportError:  # Windows; time is limited there by the other side alone
        return
    most = min(MAX_MEMORY, max(LEAST_MEMORY, int(OF_FREE * free_memory())))
    _lower(resource.RLIMIT_AS, used + most)
    _lower(resource.RLIMIT_CORE, 0)


def _address_space() -> int:
    """The bytes of it that this process has, where the system says so."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        return 0
    return pages * resource.getpagesize()


def go_first() -> None:
    """Where the machine or its container runs out of memory, the system ends this process and not the server."""
    with suppress(OSError):  # another system than Linux
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def limit_time() -> None:
    """The next MAX_SECONDS of processor time are for the next picture; then the system ends the process."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + MAX_SECONDS)


def _lower(what: int, limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def wait_for(requests: BinaryIO) -> bool:
    """Whether there is something to read before IDLE is over."""
    if os.name == "nt":  # pipes can't be waited for; reading waits without an end
        return True
    return bool(select.select([requests], [], [], IDLE)[0])


if __name__ == "__main__":
    main()
