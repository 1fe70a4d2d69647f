"""A converted folder answers as its source, is what it says, and is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from engine.generate import generate
from models.__main__ import main
from models.config import load_config
from models.conversation import Sampling
from models.conversion import contents
from models.conversion.convert import convert
from models.conversion.folder import check_whole, read_manifest
from models.conversion.reading import find_class
from models.conversion.writing import Form, write_weights
from models.errors import ConfigError, ConversionFailed, MiniVLMError
from models.files.released import ReleasedFiles
from models.loader import load_model, materialise, parts_of
from models.tensors.weights import read_tensors
from models.vision_language_model import VisionLanguageModel
from tests.paths import ROOT
from tests.recorded_case import Case

GOLDENS = ROOT / "tests" / "goldens"
CASES = [Case(path.parent) for path in sorted(GOLDENS.glob("*/case.json"))]
each_case = pytest.mark.parametrize("case", CASES, ids=[case.folder.name for case in CASES])


def quiet(_: str) -> None:
    pass


def loaded(path: Path, *options: str, dtype: str | None = None, quantization: str | None = None) -> VisionLanguageModel:
    return load_model(path, device="cpu", dtype=dtype, quantization=quantization, overrides=options, report=quiet)


@each_case
def test_greedy_answers_are_the_references(case: Case, tmp_path: Path) -> None:
    convert(case.folder / "config.yaml", tmp_path / "out", dtype="float32", report=quiet, shard_bytes=2**18)
    assert (tmp_path / "out" / "language_model" / "model.safetensors.index.json").is_file()
    model = loaded(tmp_path / "out")
    for turn in case.conversation("turns"):
        sampling = Sampling(temperature=0, repetition_penalty=turn.penalty, max_new_tokens=turn.max_new_tokens)
        assert generate(model, [turn.turns], sampling)[0].ids == turn.ids


# Llama, Gemma with its tied head, experts, and Phi with LoRA.
QUANTIZED = [("mgm-7b", "4bit"), ("mgm-2b", "8bit"), ("moe-llava-stablelm", "4bit"), ("tinygptv-stage4", "8bit")]


@pytest.mark.parametrize(("case", "quantization"), QUANTIZED)
def test_quantized_weights_are_those_of_quantized_loading(
    case: str, quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the layers that are in 8 bits where a CPU loads the released files in 4."""
    monkeypatch.setattr("models.quantized.loading.wider_weights", lambda *_: frozenset())
    source = GOLDENS / case / "config.yaml"
    convert(source, tmp_path / "out", dtype="float32", quantization=quantization, report=quiet)
    expected = loaded(source, dtype="float32", quantization=quantization)
    model = loaded(tmp_path / "out")
    assert model.info == expected.info
    turns = next(Case(source.parent).conversation("turns")).turns
    with torch.inference_mode():
        logits = [m.language_model(inputs_embeds=m.embed_prompt(turns)[None]).logits for m in (model, expected)]
        assert torch.equal(*logits)
    if case == "mgm-7b":
        # As any other program reads it. Not its logits: at widths as small as these some of bitsandbytes' CPU kernels
        # fail or take wrong scales (models/quantization.py).
        config = replace(load_config(source), quantization=quantization)
        part = parts_of(config, ReleasedFiles(config))["language_model"]
        cpu, dtype = torch.device("cpu"), torch.float32
        wanted = materialise(part, device=cpu, dtype=dtype, quantization=quantization, arranged=False).state_dict()
        other = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "language_model", device_map={"": "cpu"})
        read = other.state_dict()
        assert read.keys() == wanted.keys()
        assert all(torch.equal(wanted[name], tensor) for name, tensor in read.items())


def test_transformers_reads_the_language_model(tmp_path: Path) -> None:
    """Llama with LoRA merged, as any other program reads it."""
    source, ids = GOLDENS / "minigpt_v2" / "config.yaml", torch.arange(5, 15)[None]
    convert(source, tmp_path / "out", dtype="float32", report=quiet)
    expected = loaded(source, dtype="float32").language_model(input_ids=ids).logits
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "language_model", dtype="float32")
    assert torch.equal(model(input_ids=ids).logits, expected)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled MoE-LLaVA, converted; tests change copies of it."""
    out = tmp_path_factory.mktemp("converted") / "moe"
    convert(ROOT / "eval_configs" / "tiny_moe_llava.yaml", out, dtype="float32", report=quiet)
    return out


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_the_folder_moves_and_verify_reads_it(
    converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(converted, tmp_path)
    assert main(["verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "language_model: 9," in out
    assert "The files belong together" in out
    assert f"Serve it: python demo.py --cfg-path {folder} --device cpu\n" in out
    weights = load_model(folder / "minivlm.yaml", device="cpu", report=quiet).language_model.state_dict()
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}


def cut(folder: Path) -> object:
    file = folder / "language_model" / "model.safetensors"
    return file.write_bytes(file.read_bytes()[:-7])


def no_safetensors(folder: Path) -> object:
    file = folder / "language_model" / "model.safetensors"
    return file.write_bytes(bytes(len(file.read_bytes())))


def other_class(folder: Path) -> object:
    file = folder / "vision_tower" / "module.json"
    return file.write_text(file.read_text().replace('"CutClip"', '"os.system"'))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "bytes, but"),
    "missing": (lambda f: (f / "connector" / "module.json").unlink(), "1 of 12 files are missing"),
    "no yaml": (lambda f: (f / "minivlm.yaml").unlink(), "is a converted model without its minivlm.yaml. Copy the"),
    "no safetensors": (no_safetensors, "is damaged. Copy the folder again, or make it again: python -m models convert"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "has no manifest.json"),
    "damaged manifest": (lambda f: (f / "manifest.json").write_text("{"), "can't be used"),
    "manifest of brackets": (lambda f: (f / "manifest.json").write_text("[" * 10**5), "can't be used"),
    "other class": (other_class, "were written"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_one_line(
    name: str, converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = DAMAGES[name]
    folder = copy_of(converted, tmp_path)
    damage(folder)
    assert main(["verify", str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    with pytest.raises(MiniVLMError):
        loaded(folder)


def test_only_this_programs_and_transformers_classes_are_made() -> None:
    assert find_class("MlpProjector", nn.Module).__name__ == "MlpProjector"
    for name in ("os.system", "system", "Path", "__import__", "PreTrainedConfig"):
        with pytest.raises(ValueError, match="no class"):
            find_class(name, nn.Module)


@pytest.mark.parametrize("option", ["8bit", "4bit"])
def test_verify_refuses_the_quantization_that_loading_refuses(
    option: str, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(converted), "--options", f"quantization={option}"]) == 2
    output = capsys.readouterr()
    assert f"quantization is {option}, but these weights were converted with none" in output.err
    assert "Serve it" not in output.out


def test_stacked_experts_are_not_quantized_afterwards(converted: Path) -> None:
    with pytest.raises(ConfigError, match=r"quantization is 4bit, but .* were converted with none.*convert"):
        loaded(converted, quantization="4bit")


def test_what_is_not_a_conversion_is_not_replaced(converted: Path, tmp_path: Path) -> None:
    source = ROOT / "eval_configs" / "tiny_moe_llava.yaml"
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letters.txt").write_text("mine")
    folder = copy_of(converted, tmp_path)
    (folder / "notes.txt").write_text("mine")
    for out, message in (("file", "is a file"), ("folder", "first: letters.txt"), ("copy", "first: notes.txt")):
        with pytest.raises(ConversionFailed, match=message):
            convert(source, tmp_path / out, report=quiet)
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "file", "folder"]


@pytest.mark.parametrize("kind", ["to a folder", "to nothing"])
def test_a_link_stays_and_its_folder_is_written(kind: str, tmp_path: Path) -> None:
    """As people give them who have their models on another disk."""
    target = tmp_path / "big disk" / "out"
    (target if kind == "to a folder" else target.parent).mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(target)
    for _ in range(2):
        convert(ROOT / "eval_configs" / "tiny_moe_llava.yaml", link, report=quiet)
        assert link.readlink() == target
        check_whole(target, read_manifest(target))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["big disk", "link"]
        assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(("out", "message"), [("x" * 300, "File name too long"), ("/", "no conversion wrote")])
def test_a_folder_that_can_be_none_is_one_line(out: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionFailed, match=message):
        convert(ROOT / "eval_configs" / "tiny_moe_llava.yaml", tmp_path / out, report=quiet)


def test_a_full_disk_is_one_line_and_leaves_the_older_folder(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(converted, tmp_path)
    before = (folder / "manifest.json").read_bytes()
    real_open = Path.open

    def full(path: Path, mode: str = "r", **kwargs: Any) -> Any:
        is_written = path.name == "model.safetensors" and mode == "wb"
        return real_open(Path("/dev/full") if is_written else path, mode, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ConversionFailed, match=r"the disk is full; make room.* Nothing half-written was left\."):
        convert(ROOT / "eval_configs" / "tiny_moe_llava.yaml", folder, report=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert (folder / "manifest.json").read_bytes() == before
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConversionFailed, match="has 1 MiB free, but 7 MiB are to be written"):
        convert(ROOT / "eval_configs" / "tiny_moe_llava.yaml", folder, report=quiet)


@pytest.mark.parametrize("moment", ["writing", "between the renamings"])
def test_a_killed_conversion_leaves_nothing_half(moment: str, converted: Path, tmp_path: Path) -> None:
    folder, source = copy_of(converted, tmp_path), ROOT / "eval_configs" / "tiny_moe_llava.yaml"

    def kill(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:  # what happens to a process that is killed, without a second import of torch
        with pytest.MonkeyPatch.context() as patch:
            if moment == "writing":
                patch.setattr(contents, "_copy_beside", kill)  # all weights are written
            else:
                real_rename = Path.rename
                patch.setattr(
                    Path, "rename", lambda path, to: kill() if ".partial" in path.name else real_rename(path, to)
                )
            convert(source, folder, dtype="bfloat16", report=quiet)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    names = {path.name for path in tmp_path.iterdir()}
    assert ".copy.partial" in names
    assert ("copy" in names) == (moment == "writing")  # else it lies beside, whole, until the next conversion
    if moment == "writing":
        check_whole(folder, read_manifest(folder))
        assert read_manifest(folder).dtype == "float32"
    with pytest.MonkeyPatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(ConversionFailed, match="1 MiB free"):
            convert(source, folder, report=quiet)
    check_whole(folder, read_manifest(folder))  # the older one is back, although the next one failed as well
    convert(source, folder, dtype="bfloat16", report=quiet)
    assert read_manifest(folder).dtype == "bfloat16"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def read(name: str) -> torch.Tensor:
        assert not any(ref() is not None for ref in alive)
        tensor = torch.full((3,), int(name), dtype=torch.bfloat16)
        alive.append(weakref.ref(tensor))
        return tensor

    write_weights({str(n): Form(torch.Size([3]), torch.bfloat16) for n in range(5)}, read, tmp_path, shard_bytes=12)
    tensors = read_tensors(tmp_path)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {str(n): [n] * 3 for n in range(5)}
    assert len(list(tmp_path.glob("model-*-of-00003.safetensors"))) == 3
