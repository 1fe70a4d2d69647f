"""Every kind of file, damaged at random: it is read or refused in one line, and nothing else."""

from __future__ import annotations

import io
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from app.batch.question_file import prepare, read_lines
from app.chat.decoding.decode import decode
from app.chat.saved import chat_json, read_chat
from app.chat.session import ChatSession
from models.inspection.file_headers import read_headers
from models.tensors.weights import read_tensors
from models.tokenizers.codegen import CodeGenTokenizer
from models.tokenizers.pieces import PieceTokenizer
from models.tokenizers.sentencepiece import SentencePieceTokenizer
from models.tokenizers.tiktoken import TiktokenTokenizer
from tests.app.helpers import scene
from tests.fakes import ScriptedModel
from tests.fuzz.made_up import Target, made_up, mutated, run
from tests.paths import ROOT
from training.data.annotations import Annotations

PICTURE_KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF")
MODEL = ScriptedModel(default="<p>a circle</p>{<1><2><30><40>}")


@cache
def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    scene().resize((40, 24)).save(buffer, kind)
    return buffer.getvalue()


@cache
def weights(kind: str) -> bytes:
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(3, dtype=torch.bfloat16)}
    if kind == "safetensors":
        return save(tensors)
    buffer = io.BytesIO()
    torch.save({"model": tensors}, buffer)
    return buffer.getvalue()


@cache
def saved_chat() -> bytes:
    session = ChatSession()
    for _ in session.ask(MODEL, "what is it?"):
        pass
    return chat_json(session.exchanges, saved="2026-01-31T12:00:00+00:00").encode()


def damaged(rng: random.Random, folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(mutated(rng, content) if rng.random() < 0.9 else made_up(rng).encode("utf-8", "replace"))
    return path


def pictures(rng: random.Random, folder: Path) -> None:
    image = decode(mutated(rng, picture(rng.choice(PICTURE_KINDS)))).image
    assert image.mode == "RGB"
    assert isinstance(image, Image.Image)


def weight_files(rng: random.Random, folder: Path) -> None:
    kind = rng.choice(["safetensors", "pth"])
    for name, tensor in read_tensors(damaged(rng, folder, f"model.{kind}", weights(kind))).items():
        assert isinstance(name, str)
        assert tensor.numel() < 1000


def headers(rng: random.Random, folder: Path) -> None:
    kind = rng.choice(["safetensors", "pth"])
    read_headers(damaged(rng, folder, f"model.{kind}", weights(kind)))


def question_files(rng: random.Random, folder: Path) -> None:
    line = json.dumps({"question": made_up(rng), "image": rng.choice(["", made_up(rng)])}).encode() + b"\n"
    for read in read_lines(damaged(rng, folder, "questions.jsonl", line * 2)):
        prepare(read, folder, MODEL)


def indices(rng: random.Random, folder: Path) -> None:
    names: dict[str, Any] = {made_up(rng): rng.choice([made_up(rng), 5, None, [], {}]) for _ in range(2)}
    index = json.dumps({"weight_map": rng.choice([names, made_up(rng), 5, []])}).encode()
    (folder / "model.safetensors.index.json").write_bytes(rng.choice([index, mutated(rng, index)]))
    read_tensors(folder)


TOKENIZERS: list[tuple[Any, str, tuple[str, ...]]] = [
    (SentencePieceTokenizer, "tiny_minigpt_v2/llama", ("tokenizer.model",)),
    (CodeGenTokenizer, "tiny_tinygpt_v/phi-2", ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json")),
    (PieceTokenizer, "tiny_mini_gemini", ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")),
]


def tokenizers(rng: random.Random, folder: Path) -> None:
    kind, source, names = rng.choice(TOKENIZERS)
    files = {name: (ROOT / "checkpoints" / source / name) for name in names}
    files = {name: file for name, file in files.items() if file.is_file()}
    broken = rng.choice(sorted(files))
    for old in folder.iterdir():
        old.unlink()
    for name, file in files.items():
        content = file.read_bytes()
        (folder / name).write_bytes(mutated(rng, content) if name == broken else content)
    if rng.random() < 0.2:
        TiktokenTokenizer(damaged(rng, folder, "qwen.tiktoken", b"IQ== 0\nIg== 1\nISI= 2\n"))
    tokenizer = kind(folder / "tokenizer.model" if kind is SentencePieceTokenizer else folder)
    tokenizer.decode(tokenizer.encode("a red circle"))


def saved_chats(rng: random.Random, folder: Path) -> None:
    read_chat(mutated(rng, saved_chat()), MODEL)


def annotation_files(rng: random.Random, folder: Path) -> None:
    rows = [{"image": "a.jpg", "caption": made_up(rng), "bbox": [1, 2, 3, rng.choice([4, None, "x", 1e999])]}, 5]
    content = json.dumps({"annotations": rows} if rng.random() < 0.5 else rows).encode()
    path = damaged(rng, folder, "rows.json", content)
    for item in Annotations(path, key=rng.choice(["annotations", None]), keyed=rng.random() < 0.2):
        item.text("caption")
        item.numbers("bbox", 4)


@pytest.mark.parametrize(
    ("target", "usual"),
    [
        *(
            (target, 60)
            for target in (pictures, weight_files, headers, indices, saved_chats, annotation_files, question_files)
        ),
        (tokenizers, 12),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_read_or_refused_in_one_line(target: Target, usual: int, tmp_path: Path) -> None:
    run(target, tmp_path, usual=usual)
