"""`convert`: the model of a YAML as one folder of safetensors, which is there whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from huggingface_hub.utils import WeakFileLock

from models.command_line import quoted
from models.config import family_module, load_config
from models.conversion.contents import write_folder
from models.conversion.folder import foreign_file
from models.conversion.reading import check_not_packed
from models.devices import DTYPES, check_memory
from models.errors import ConversionFailed
from models.fetching.checkpoints import remarks_on
from models.files.released import ReleasedFiles
from models.loader import check_parts, parts_of
from models.tokenizers.vocabulary import check_vocabulary

Report = Callable[[str], None]

SHARD_BYTES = 4 * 2**30
_CPU = torch.device("cpu")


def convert(
    path: Path,
    out: Path,
    *,
    dtype: str = "bfloat16",
    quantization: str = "none",
    overrides: Sequence[str] = (),
    report: Report = print,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the model of a YAML to the folder `out`, in the number format `dtype`, quantized if asked.

    Only the language model is quantized. The folder is written beside `out` and takes its name when it is complete;
    what a killed conversion left is removed by the next. An older conversion at `out` is replaced, anything else
    refused. One tensor at a time is in memory; quantized ones all of them. Raises MiniVLMError.
    """
    config = load_config(path, overrides)
    config = dataclasses.replace(config, device="cpu", dtype=dtype, quantization=quantization)
    try:
        out = Path(os.path.realpath(out))  # of a link, the folder on the other disk is written, and the link stays
        _check_target(out)
    except OSError as error:
        raise _not_written(out, error) from error
    for remark in remarks_on(config):
        report(remark)
    files = ReleasedFiles(config)
    parts = parts_of(config, files)
    check_not_packed(parts)
    check_parts(parts)
    llm = parts["language_model"]
    tokenizer = family_module(config.family, source=config.source).tokenizer(files)
    check_vocabulary(tokenizer, llm.config.get_text_config().vocab_size, source=llm.source)
    if config.is_quantized:
        name = config.name or config.family
        report(check_memory([llm], [_CPU], dtype=DTYPES[dtype], quantization=quantization, name=name))
    partial, replaced = (out.with_name(f".{out.name}.{kind}") for kind in ("partial", "replaced"))
    lock = out.with_name(f".{out.name}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock, timeout=1):
            _put_back(out, partial, replaced)
            partial.mkdir()
            try:
                write_folder(config, files, parts, partial, report=report, shard_bytes=shard_bytes)
                _put_in_place(partial, out, replaced)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except TimeoutError as error:
        raise ConversionFailed(f"{out} is being written by another process; wait for it.") from error
    except OSError as error:
        raise _not_written(out, error) from error
    report(f"Serve it: python demo.py --cfg-path {quoted(out)}")


def _not_written(out: Path, error: OSError) -> ConversionFailed:
    return ConversionFailed(f"{out} can't be written: {_reason(error)} Nothing half-written was left.")


def _check_target(out: Path) -> None:
    """Raises ConversionFailed for a path that holds anything but an older conversion."""
    if out.is_dir():
        if foreign := foreign_file(out):
            raise ConversionFailed(
                f"{out} holds files that no conversion wrote (first: {foreign}), and would be replaced; give another "
                "folder."
            )
    elif out.exists() or out.is_symlink():
        raise ConversionFailed(f"{out} is a file; give a folder, which need not exist.")


def _put_back(out: Path, partial: Path, replaced: Path) -> None:
    """Undo what a conversion did that was killed."""
    shutil.rmtree(partial, ignore_errors=True)
    if replaced.is_dir() and not out.exists():  # killed between the two renamings
        replaced.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _put_in_place(partial: Path, out: Path, replaced: Path) -> None:
    if out.is_dir():
        out.rename(replaced)
    partial.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "the disk is full; make room, or give a folder on another disk."
    return f"{error.strerror or error} ({error.filename})." if error.filename else f"{error.strerror or error}."
