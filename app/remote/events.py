"""Server-sent events from a stream of bytes that may hold anything, within limits."""

from __future__ import annotations

from collections.abc import AsyncIterator

from models.errors import ServerFailed

MAX_LINE = 4 * 2**20  # bytes of one line; the regions of an answer come on one
MAX_BYTES = 64 * 2**20  # of a whole stream, pings included


async def events(pieces: AsyncIterator[bytes], *, where: str) -> AsyncIterator[str]:
    """The data of each event. The last one counts without the empty line behind it, which some servers leave out.

    Raises ServerFailed for a line or a stream without end.
    """
    data: list[str] = []
    rest = b""
    total = 0
    async for piece in pieces:
        total += len(piece)
        if total > MAX_BYTES:
            raise ServerFailed(f"{where} sent {MAX_BYTES >> 20} MiB and no end of its answer; the rest was not read.")
        *lines, rest = (rest + piece).split(b"\n") if b"\n" in piece else (rest + piece,)
        if len(rest) > MAX_LINE or any(len(line) > MAX_LINE for line in lines):
            raise ServerFailed(f"{where} sent a line of more than {MAX_LINE >> 20} MiB, which was not read.")
        for line in lines:
            if (new := _data(line)) is not None:
                data.append(new)
            elif not line.strip(b"\r") and data:
                yield "\n".join(data)
                data = []
    if (new := _data(rest)) is not None:
        data.append(new)
    if data:
        yield "\n".join(data)


def _data(line: bytes) -> str | None:
    """What a line of data says; None for all others."""
    name, colon, value = line.partition(b":")
    if name != b"data" or not colon:
        return None
    return value.removeprefix(b" ").rstrip(b"\r").decode("utf-8", "replace")
