"""What a file or folder is that holds no weights this program reads: told by its first bytes, or by its tensors' names.

Needs no torch, so that downloads can ask as well.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from models.errors import CheckpointCorrupt

AS_RELEASED = "get the model as it was released, in safetensors or .bin files."
UNPACK = "unpack it, and give the folder or the file inside that holds the weights."
BESIDE = "give the file of the weights, or the folder that holds both."
_HEAD = 1024  # bytes that are looked at
_LONGEST_TEXT = 2**20

# What a file begins with, what it then is, and what to do.
_BEGINNINGS: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((b"GGUF", b"lmgg", b"tjgg", b"fmgg"), "llama.cpp's format (GGUF)", AS_RELEASED),
    ((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ", b"BZh", b"(\xb5/\xfd"), "an archive", UNPACK),
    ((b"\x89HDF\r\n",), "an HDF5 file, as TensorFlow and Keras write weights", AS_RELEASED),
    ((b"\x93NUMPY",), "an array of numpy", AS_RELEASED),
    (
        (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"%PDF"),
        "a picture or a PDF, not weights",
        "delete it and download the file itself.",
    ),
    ((b"\n\x0e\n\x05<unk>",), "a sentencepiece tokenizer, not weights", BESIDE),
    ((b"MZ", b"\x7fELF"), "a program, not weights", "delete it and download the file itself."),
)
_TEXTS = (".json", ".md", ".txt", ".py", ".jinja")  # what lies beside weights
_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head")
_ONNX = re.compile(rb"\x08[\x01-\x20](\x12[\x01-\x40][ -~]+|:)")  # protobuf: the version, then who wrote it or a graph

# Names beside a weight in which other programs keep what they need to unpack it.
_PACKED = (
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "gptq or awq"),
    (re.compile(r"\.weight(\.absmax|\.quant_map|\.quant_state\.bitsandbytes__\w+)$|\.SCB$"), "bitsandbytes"),
    (re.compile(r"\.weight_(scale|scale_inv)$"), "fp8 or another format of 8 bits"),
    (re.compile(r"\.weight_packed$"), "compressed-tensors"),
    (re.compile(r"\.biases$"), "mlx"),
)


def refuse_foreign(path: Path, *, reads: str) -> bytes:
    """The first bytes of a file. Raises CheckpointCorrupt, with what it is and what to do, if it holds no weights.

    `reads` is what the caller takes it for, `safetensors` or `pickle`: the other is named, as names say what is read.
    """
    refuse_special(path)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise CheckpointCorrupt(f"{path} can't be read ({error.strerror}).") from error
    if (found := _told(path, head, reads)) is not None:
        what, what_to_do = found
        raise CheckpointCorrupt(f"{path} is {what}; {what_to_do}")
    return head


def refuse_special(path: Path) -> None:
    """Raises CheckpointCorrupt for a pipe, which would be waited for, and for a device, which may have no end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise CheckpointCorrupt(f"{path} is a pipe, a socket or a device; put the file itself there.")


def is_page(head: bytes) -> bool:
    """Whether a file with these first bytes is a web page, as servers send it in the place of a file."""
    return head.strip().lower().startswith(_PAGE)


def packed_by(names: Iterable[str]) -> str:
    """The program that has quantized weights with these names; "" for weights at full size."""
    return next((who for name in names for pattern, who in _PACKED if pattern.search(name)), "")


def already_quantized(where: object, who: str) -> str:
    """What is said of weights that another program has quantized."""
    return (
        f"{where}: these weights are quantized already ({who}); give the model as it was released, which "
        "--quantization 8bit or 4bit shrinks while it is loaded."
    )


def _told(path: Path, head: bytes, reads: str) -> tuple[str, str] | None:
    again = "delete it and download it again."
    if not head:
        return "empty", again
    for beginnings, what, what_to_do in _BEGINNINGS:
        if head.startswith(beginnings):
            return what, what_to_do
    if head.startswith(b"PK"):
        return _zip(path, reads)
    if head[257:262] == b"ustar":
        return "an archive", UNPACK
    if _is_safetensors(head) and reads == "pickle":
        return f"a safetensors file with the ending {path.suffix or '(none)'}", f"rename it to {path.stem}.safetensors."
    if _ONNX.match(head) and not head.startswith(b"\x08\x80"):
        return "an ONNX model", AS_RELEASED
    if not head.strip(b"\0"):
        return "nothing but zeros at its beginning, as of a download that only reserved its room", again
    return _text(path, head)


def _zip(path: Path, reads: str) -> tuple[str, str] | None:
    """torch's own files are zip archives as well: one that holds a pickle is none of these."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError):
        return None  # cut short: what reads it says so
    if any(name.endswith("constants.pkl") for name in names):
        return "a TorchScript program, which could run code", AS_RELEASED
    if any(name.endswith("data.pkl") for name in names):
        if reads == "pickle":
            return None
        return f"a PyTorch checkpoint with the ending {path.suffix}", f"rename it to {path.stem}.pth."
    if names and all(name.endswith(".npy") for name in names):
        return "arrays of numpy", AS_RELEASED
    return f"an archive ({', '.join(names[:2]) or 'empty'})", UNPACK


def _text(path: Path, head: bytes) -> tuple[str, str] | None:
    """A web page, a pointer, or another text of a server."""
    text, again = head.strip(), "delete it and download the file itself."
    if is_page(head):
        title = re.search(rb"<title>\s*([^<]{1,60})", head, re.IGNORECASE)
        named = f' ("{title[1].decode(errors="replace").strip()}")' if title else ""
        return f"a web page{named}, not weights", again
    if text.startswith(b"version https://git-lfs"):
        size = re.search(rb"^size (\d+)", text, re.MULTILINE)
        of = f" to a file of {int(size[1]):,} bytes" if size else ""
        return f"a git-lfs pointer{of}, not the file", "run git lfs pull in its folder, or download the file itself."
    if path.suffix in _TEXTS:
        return "a text, not weights", BESIDE
    is_short = path.stat().st_size <= _LONGEST_TEXT
    if is_short and re.fullmatch(rb"[\t\r\n -~]+", head):
        words = " ".join(text[:60].decode("ascii").split())
        return f'a text ("{words}"), not weights', again
    return None


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 10**8
