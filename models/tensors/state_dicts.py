"""Pickled weights (`.pth`, `.bin`) in the wrappings that people save them in -> names and tensors.

Nothing in a file is run: what is not tensors and plain containers is told by its class's name.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import CheckpointCorrupt
from models.tensors.foreign import refuse_foreign

_PICKLE_STARTS = (b"PK", b"\x80")  # torch's zip files, and bare pickles of protocol 2 and later
# Under which key runners keep a state dict beside other things: LAVIS and MiniGPT, Lightning, DeepSpeed and many more.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
_DEEPEST = 8  # wrappings in each other
_PARALLEL = "module."  # what DataParallel and DistributedDataParallel put in front of every name
# What wrappers of single modules put among the names: torch.compile, FSDP, and recomputing of activations.
_WRAPPED = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_HARMLESS = ("torch", "collections", "numpy", "_codecs", "builtins", "argparse")


# torch's word about a file that is not its own; what is wrong with one is told by the errors here.
warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled file by name, memory-mapped; wrappings and what they put into names are taken off.

    Raises CheckpointCorrupt for what holds code, is damaged, or is no state dict.
    """
    content = unwrapped(load_pickle(path))
    if not is_state_dict(content):
        raise CheckpointCorrupt(
            f"{path} holds no state dict (names -> tensors){_entry(content)}; is it the right file?"
        )
    if odd := [name for name, tensor in content.items() if not is_plain(tensor)]:
        raise CheckpointCorrupt(
            f"{path}: {odd[0]} is sparse, quantized or without values, as no released tensor is; download it again."
        )
    names = list(plain_names(content))
    if len(set(names)) < len(names):
        raise CheckpointCorrupt(f"{path} has tensors twice, wrapped and not; re-save only one of each.")
    return dict(zip(names, content.values(), strict=True))


def plain_names(names: Collection[str]) -> Iterator[str]:
    """Names of tensors without what DataParallel, torch.compile and the like put in front of them or among them."""
    plain = [_WRAPPED.sub("", name) for name in names]
    is_parallel = all(name.startswith(_PARALLEL) for name in plain)
    return (name.removeprefix(_PARALLEL) if is_parallel else name for name in plain)


def load_pickle(path: Path) -> Any:
    """What a pickled file holds, opened with `weights_only`. Raises CheckpointCorrupt."""
    head, size = refuse_foreign(path, reads="pickle"), path.stat().st_size
    try:
        # Only zip files (torch >= 1.6) can be memory-mapped.
        return torch.load(path, map_location="cpu", mmap=head.startswith(b"PK"), weights_only=True)
    except Exception as error:  # bytes that are no pickle lead the unpickler to anything
        if isinstance(error, pickle.UnpicklingError) and head.startswith(_PICKLE_STARTS):
            if (whole := pickled_class(path)) is not None:
                raise CheckpointCorrupt(
                    f"{path} is a whole pickled model ({whole}), which could run code and was not opened. Whoever has "
                    "that class can re-save it: torch.save(torch.load(file, weights_only=False).state_dict(), file)."
                ) from error
            raise CheckpointCorrupt(
                f"{path} contains Python objects beside tensors and was not opened, because they could run code. "
                "Get it from the official source, or re-save only its tensors."
            ) from error
        raise CheckpointCorrupt(
            f"{path} ({size:,} bytes) is no PyTorch checkpoint, or truncated or damaged; delete it and download it "
            "again."
        ) from error


def unwrapped(content: Any) -> Any:
    """The state dict inside of what a runner saved; the content itself where it is in no known wrapping."""
    *_, inner = _layers(content)
    return inner


def beside_weights(content: Any) -> list[str]:
    """What a runner saved beside the state dict, by its names."""
    found: set[str] = set()
    for layer in _layers(content):
        if (key := _wrapper(layer)) is not None:
            found |= {str(name) for name in layer if name != key}
    return sorted(found)


def _layers(content: Any) -> Iterator[Any]:
    """The content, what it wraps, and so on; not for ever, as a pickle may hold itself."""
    yield content
    for _ in range(_DEEPEST):
        if (key := _wrapper(content)) is None:
            return
        content = content[key]
        yield content


def _wrapper(content: Any) -> str | None:
    """The key that the state dict, or a further wrapping, is under; None where this is not a wrapping."""
    if not isinstance(content, dict) or is_state_dict(content):
        return None
    return next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)


def is_state_dict(content: Any) -> bool:
    """Whether this is a mapping from names to tensors, and nothing else."""
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _entry(content: Any) -> str:
    """Which entry makes no state dict of a mapping that has tensors in it, as a part of a message."""
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        return ""
    wrong = next(name for name, value in content.items() if not is_state_dict({name: value}))
    if not isinstance(wrong, str):
        return f", as {wrong!r} is no name"
    return f", as {wrong} is no tensor but of the type {type(content[wrong]).__name__}"


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds a number for each of its places."""
    return tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_nested or tensor.is_meta)


def pickled_class(path: Path) -> str | None:
    """The class of a whole model that was pickled, `module.Class`, found without running anything; None: no such."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            code = archive.read(name)
        found = _globals(code)
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        return None
    foreign = [name for name in found if name.partition(".")[0] not in _HARMLESS]
    is_module = any(name.startswith("torch.nn.modules.") for name in found)
    return (foreign or found)[0] if found and is_module else None


def _globals(code: bytes) -> list[str]:
    """The names that a pickle imports, in order."""
    names: list[str] = []
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(code):
        if opcode.name == "GLOBAL":
            names.append(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            names.append(".".join(texts[-2:]))
        elif isinstance(argument, str):
            texts.append(argument)
    return names


def is_beside(name: str) -> bool:
    """Whether a name in an index is that of a file in the index's own folder, on any system."""
    return name not in ("", ".", "..") and not any(char in name for char in "/\\:\0")
