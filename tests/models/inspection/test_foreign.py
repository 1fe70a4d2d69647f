"""Files and folders of other programs, and what servers send instead of weights: what `verify` calls them, once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.errors import CheckpointCorrupt
from models.tensors.weights import read_tensors
from tests.models.inspection.verifying import verify
from tests.paths import ROOT

EMBEDDING = {"model.embed_tokens.weight": torch.zeros(8, 4)}
PROJ = "model.layers.0.self_attn.q_proj"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0d91\nsize 679807405\n"
TOKENIZER = b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n\x0c\n\x03<s>"
TORCH = (ROOT / "checkpoints" / "tiny_minigpt4" / "pretrained_minigpt4.pth").read_bytes()
BESIDE = "give the file of the weights"
AS_RELEASED = "get the model as it was released"


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llama/config.json", "{}")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__)


def scripted(path: Path) -> None:
    """As torch.jit writes it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"model/{name}", "")


def written(content: bytes | str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


FILES: dict[str, tuple[str, Callable[[Path], object], list[str]]] = {
    "GGUF": ("q4.gguf", written(b"GGUF\3\0\0\0" + bytes(99)), ["is llama.cpp's format (GGUF); " + AS_RELEASED]),
    "GGUF renamed": ("a.safetensors", written(b"GGUF\3\0\0\0" + bytes(99)), ["is llama.cpp's format (GGUF)"]),
    "zip": ("a.zip", zipped, ["is an archive (llama/config.json); unpack it"]),
    "zip as .pth": ("a.pth", zipped, ["is an archive (llama/config.json); unpack it"]),
    "tar as .pth": ("a.pth", tarred, ["is an archive; unpack it"]),
    "gzip": ("a.tar.gz", written(b"\x1f\x8b\x08" + bytes(99)), ["is an archive; unpack it"]),
    "ONNX": (
        "a.onnx",
        written(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:" + bytes(99)),
        ["is an ONNX model; " + AS_RELEASED],
    ),
    "HDF5": ("a.h5", written(b"\x89HDF\r\n\x1a\n" + bytes(99)), ["is an HDF5 file, as TensorFlow", AS_RELEASED]),
    "TorchScript": ("a.pt", scripted, ["is a TorchScript program, which could run code; " + AS_RELEASED]),
    "page": (
        "a.pth",
        written("\n<!DOCTYPE html><title>Google Drive - Virus scan warning</title>"),
        ['is a web page ("Google Drive - Virus scan warning"), not weights; delete it and download the file itself.'],
    ),
    "answer of a server": ("a.pth", written('{"error":"Access denied"}'), ['is a text ("{"error":"Access denied"}")']),
    "pointer": ("a.bin", written(POINTER), ["is a git-lfs pointer to a file of 679,807,405 bytes, not the file; run"]),
    "tokenizer": ("tokenizer.model", written(TOKENIZER), ["is a sentencepiece tokenizer, not weights; " + BESIDE]),
    "configuration": ("config.json", written('{"model_type": "llama"}'), ["is a text, not weights; " + BESIDE]),
    "part": ("a.pth.part", written(TORCH[:-10]), ["is an unfinished download; start it again with the same command"]),
    "empty": ("a.pth", written(b""), ["is empty; delete it and download it again."]),
    "zeros": ("a.pth", written(bytes(5000)), ["is nothing but zeros at its beginning"]),
    "picture": ("a.pth", written(b"\x89PNG\r\n\x1a\n" + bytes(99)), ["is a picture or a PDF, not weights"]),
    "safetensors as .pth": (
        "a.pth",
        lambda p: save_file(EMBEDDING, p),
        ["a safetensors file with the ending .pth; rename"],
    ),
    "pickle as .safetensors": ("a.safetensors", lambda p: torch.save(EMBEDDING, p), ["rename it to a.pth."]),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_called_what_it_is_once(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, write, said = FILES[kind]
    write(tmp_path / name)
    status, out, error = verify(tmp_path / name, capsys)
    assert (status, out) == (2, "")
    assert error.startswith(f"error: {tmp_path / name} is ")
    for text in said:
        assert text in error


PACKED = {
    "gptq": ({f"{PROJ}.qweight": torch.int32, f"{PROJ}.qzeros": torch.int32}, "gptq"),
    "awq": ({f"{PROJ}.qweight": torch.int32, f"{PROJ}.qzeros": torch.int32}, "awq"),
    "fp8": ({f"{PROJ}.weight": torch.float8_e4m3fn, f"{PROJ}.weight_scale": torch.float32}, "fp8"),
    "bitsandbytes": ({f"{PROJ}.weight": torch.uint8, f"{PROJ}.weight.absmax": torch.float32}, "bitsandbytes"),
    "mlx": ({f"{PROJ}.weight": torch.int32, f"{PROJ}.biases": torch.float32}, "mlx"),
}


@pytest.mark.parametrize("is_stated", [True, False], ids=["stated", "by its tensors"])
@pytest.mark.parametrize("method", PACKED)
def test_a_folder_that_another_program_has_quantized_is_refused(
    method: str, is_stated: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, called = PACKED[method]
    save_file(
        EMBEDDING | {name: torch.zeros(4, 4).to(dtype) for name, dtype in tensors.items()},
        tmp_path / "model.safetensors",
    )
    stated = {"quantization_config": {"quant_method": method}} if is_stated and method != "mlx" else {}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **stated}))
    status, _, error = verify(tmp_path, capsys)
    assert status == 2
    assert "these weights are quantized already (" in error
    assert called in error


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    """`python -m models verify … | head -1`"""
    command = [sys.executable, "-m", "models", "verify", "eval_configs/tiny_minigpt_v2.yaml"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_not_waited_for(
    kind: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name may have a hundred bytes
    if kind == "pipe":
        os.mkfifo(name)
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(name)
    path = tmp_path / name
    status, _, line = verify(path, capsys)
    assert (status, "is a pipe, a socket or a device" in line) == (2, True)
    with pytest.raises(CheckpointCorrupt, match="is a pipe, a socket or a device"):
        read_tensors(path)
