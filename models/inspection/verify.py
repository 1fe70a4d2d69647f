"""`verify`: everything about a configuration's files that can be known without loading them, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from models.command_line import quoted
from models.config import family_module, load_config
from models.conversion.folder import (
    CONFIG_FILE,
    MANIFEST_FILE,
    MODULE_FILE,
    check_whole,
    configuration_in,
    make_again,
    read_manifest,
)
from models.conversion.reading import converted_parts
from models.devices import free_bytes
from models.errors import CheckpointMismatch, CheckpointMissing, ConfigError
from models.family_config import FamilyConfig
from models.fetching.checkpoints import CHECKPOINTS_DIR, NeededFile, describe_missing, needed_files
from models.fetching.hashes import HashLedger
from models.fetching.table import find_released, released_files
from models.files.released import ReleasedFiles
from models.inspection.file_headers import Headers, quantized_by, read_headers
from models.inspection.file_kinds import describe
from models.inspection.remote import repository_lines
from models.loader import check_parts, parts_of
from models.memory.serving import size
from models.memory.sizes import weight_bytes
from models.tensors.foreign import already_quantized
from models.tokenizers.vocabulary import check_vocabulary

Report = Callable[[str], None]

Precision = tuple[str, torch.dtype, str]  # how people call it, number format, quantization

PRECISIONS: tuple[Precision, ...] = (
    ("float32", torch.float32, "none"),
    ("16 bit", torch.bfloat16, "none"),
    ("8bit", torch.bfloat16, "8bit"),
    ("4bit", torch.bfloat16, "4bit"),
)
_HEADROOM = 1.05  # as the loader asks for


def verify(path: Path, overrides: list[str], *, report: Report = print) -> None:
    """Report on a YAML's files, or on one file or folder. Raises MiniVLMError where they can't be used, with why."""
    path = configuration_in(path)
    if path.suffix not in (".yaml", ".yml"):
        return _verify_path(path, report)
    config = load_config(path, overrides)
    name = config.name or path.stem
    report(f"{name} ({config.family}):")
    if config.is_converted:
        return _verify_converted(config, overrides, report)
    files = needed_files(config)
    found = {file.key: _report_file(file, report, is_released=not config.is_toy) for file in files}
    if missing := [file for file in files if file.state != "here"]:
        raise CheckpointMissing(describe_missing(config, missing))
    if damaged := [headers.problem for headers in found.values() if headers is not None and headers.problem]:
        raise CheckpointMissing(" ".join(damaged))
    _report_whole(config, path, overrides, PRECISIONS, report)


def _verify_converted(config: FamilyConfig, overrides: Sequence[str], report: Report) -> None:
    """A folder that `convert` wrote: its manifest says which files there must be, and what was made of what."""
    folder = config.source.parent
    manifest = read_manifest(folder)
    kind = "" if manifest.quantization == "none" else f", the language model in {manifest.quantization}"
    report(f"  converted from {manifest.made_from} to {manifest.dtype}{kind}, by version {manifest.program}")
    check_whole(folder, manifest)
    for part in manifest.parts:
        headers = read_headers(folder / part)
        if headers.problem:
            raise CheckpointMissing(f"{folder / part} is damaged. {make_again(folder, manifest)}")
        report(f"  {part}: {headers.size:,} bytes, {len(headers.tensors)} tensors in {headers.dtypes}")
    converted_parts(config)  # refuses a quantization, of the YAML or an option, that these weights can't have
    offered = [p for p in PRECISIONS if p[2] == manifest.quantization or (manifest.can_be_quantized and p[2] != "none")]
    _report_whole(config, folder, overrides, offered, report)


def _report_whole(
    config: FamilyConfig, path: Path, overrides: Sequence[str], precisions: Sequence[Precision], report: Report
) -> None:
    """What is left once all files are here and can be read: whether they fit, memory, and the command."""
    sizes = weight_sizes(config, precisions)
    report("The files belong together: every tensor has its place and its size, every place a tensor.")
    for line in memory_lines(sizes):
        report(line)
    if not config.is_toy and not config.is_converted:
        report(
            "Whether they are the released ones only their sha256 says: other weights of the same sizes look alike "
            "here, as Vicuna's and Llama-2-chat's do."
        )
    report(_what_to_do(path, sizes, overrides, is_converted=config.is_converted))


def _verify_path(path: Path, report: Report) -> None:
    if not path.exists():
        raise ConfigError(f"{path} not found; give a YAML, a file or a folder.")
    if (path / MANIFEST_FILE).is_file():
        again = make_again(path, read_manifest(path))
        raise CheckpointMissing(f"{path} is a converted model without its {CONFIG_FILE}. {again}")
    headers = read_headers(path)
    if headers.problem and path.suffix == ".part":
        raise CheckpointMissing(f"{path} is an unfinished download; start it again with the same command to go on.")
    if headers.problem:
        raise CheckpointMissing(headers.problem)
    for line in header_lines(headers):
        report(line)
    if not (path / MODULE_FILE).is_file() and (who := quantized_by(headers)):  # else convert has written it
        raise CheckpointMismatch(already_quantized(path, who))
    is_model = path.is_dir() and "a language model of" in describe(headers.tensors)
    if is_model and not (path / "config.json").is_file():
        raise CheckpointMissing(f"{path} has no config.json, which says how its weights are used; finish its download.")


def _report_file(file: NeededFile, report: Report, *, is_released: bool) -> Headers | None:
    path = file.path or file.cached
    if path is None:
        if file.state == "on hub":
            report(f"  {file.key}: {file.value}")
            for line in repository_lines(file.value):
                report(f"    {line}")
            return None
        released = find_released(file.value) if is_released else None
        known = f" ({released.size:,} bytes)" if released is not None and released.size else ""
        report(f"  {file.key}: {file.value}: missing{known}")
        return None
    headers = read_headers(path)
    unusable = ": can't be used" * bool(headers.problem)  # why is said once, at the end
    report(f"  {file.key}: {file.value}{unusable}")
    if file.remark:
        report(f"    note: {file.remark}")
    for line in () if headers.problem else header_lines(headers, is_released=is_released):
        report(f"    {line}")
    return headers


def header_lines(headers: Headers, *, is_released: bool = True) -> Iterator[str]:
    """What one file or folder without a problem is, where it is, how large, and what is unusual.

    `is_released`: whether its size and hash are to be compared with those of the files that were released.
    """
    yield describe(headers.tensors)
    count = len(headers.tensors)
    yield f"{headers.path}: {headers.size:,} bytes, {count} tensors in {headers.dtypes}"
    yield from headers.remarks
    if is_released and headers.path.is_file() and (line := _upload(headers)):
        yield line


def _upload(headers: Headers) -> str:
    """Which released upload a file is, by its hash where that is known already, else by its size."""
    known = HashLedger(CHECKPOINTS_DIR / ".hashes.json").known(headers.path)
    for released in released_files():
        if known is not None and known == released.sha256:
            return f"the released {released.place}, by its sha256"
        for upload in released.older:
            if known == upload.sha256 or headers.size == upload.size:
                return f"not today's {released.place} but {upload.what}; move it away and `fetch` brings today's"
    same_size = [released.place for released in released_files() if released.size == headers.size]
    if same_size:
        return f"as large as the released {same_size[0]}; fetch compares the sha256"
    expected = find_released(str(headers.path))
    if expected is not None and expected.size is not None:
        return (
            f"not as large as the released {expected.place} ({expected.size:,} bytes): another upload, or another file"
        )
    return ""


def weight_sizes(config: FamilyConfig, precisions: Sequence[Precision] = PRECISIONS) -> dict[str, int]:
    """The bytes of all weights in each of these precisions, once the parts have been checked against each other.

    That is what the loader does before it allocates anything, here for both kinds of parts: with quantization, experts
    are separate layers. Raises MiniVLMError.
    """
    family = family_module(config.family, source=config.source)
    sizes: dict[str, int] = {}
    for shrinks in (False, True):
        group = [precision for precision in precisions if (precision[2] != "none") == shrinks]
        if not group:
            continue
        asked = replace(config, quantization=group[-1][2])
        files = ReleasedFiles(asked)
        parts = parts_of(asked, files)
        check_parts(parts)
        llm = parts["language_model"]
        check_vocabulary(family.tokenizer(files), llm.config.get_text_config().vocab_size, source=llm.source)
        sizes |= {label: weight_bytes(parts.values(), dtype, quantization) for label, dtype, quantization in group}
    return sizes


def memory_lines(sizes: Mapping[str, int]) -> Iterator[str]:
    """What the weights take in each precision, against what is free on each device."""
    yield "Memory for the weights: " + ", ".join(f"{label} {size(count)}" for label, count in sizes.items()) + "."
    for device in devices():
        free = free_bytes(device)
        fitting = [label for label, count in sizes.items() if count * _HEADROOM <= free]
        yield f"Free on {device}: {size(free)}, enough for {', '.join(fitting) or 'none of them'}."


def devices() -> list[torch.device]:
    """The devices of this machine that a model can be loaded on, the fastest first."""
    found = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return [*found, torch.device("cpu")]


def _what_to_do(path: Path, sizes: Mapping[str, int], overrides: Sequence[str], *, is_converted: bool) -> str:
    """The command that serves the model in the best way that fits; a converted one as it was converted."""
    for device in devices():
        for label, _, quantization in PRECISIONS:
            is_cpu = device.type == "cpu"
            if label in sizes and sizes[label] * _HEADROOM <= free_bytes(device) and (is_cpu or label != "float32"):
                kind = " --dtype bfloat16" * (is_cpu and label != "float32")
                kind += f" --quantization {quantization}" * (quantization != "none")
                kind *= not is_converted  # its own YAML says both
                options = f" --options {shlex.join(overrides)}" if overrides else ""
                return f"Serve it: python demo.py --cfg-path {quoted(path)} --device {device}{kind}{options}"
    return "No device of this machine has room for it, not even in 4 bits."
