"""Loading a checkpoint: time and memory, against building the modules with random values first.

The original demos make the vision tower in fp32 with random values, read the whole file into memory, copy it over and
convert (MiniGPT-4, `minigpt4/models/eva_vit.py`, `create_eva_vit_g`). Each run is a process of its own; the file is in
the page cache for both, so what is compared is the work, not the disk. All weights are read once within the time.

Memory is how much the process grew at most, mapped pages of the files counted like its own, although the system can
take those back at any time.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
import yaml
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from benchmarks.measure import Clock, Figure, SpeedReport, peak_memory
from models.config import family_module, load_config
from models.files.released import ReleasedFiles
from models.loader import build_model

_SMALL_MODEL = Path("eval_configs/tiny_minigpt4.yaml")  # of the family that is loaded here
_DONOR = Path("checkpoints/tiny_minigpt4/vicuna")  # a small language model with its tokenizer


@dataclass(frozen=True, kw_only=True)
class LoadingWork:
    """The vision tower to load: EVA-CLIP-g's width with fewer blocks. `in_process` spares tests the processes."""

    width: int = 1408
    inner: int = 6144
    heads: int = 16
    blocks: int = 18
    repeats: int = 3
    in_process: bool = False


SMALL = LoadingWork(width=64, inner=96, heads=4, blocks=2, repeats=1, in_process=True)


def run(work: LoadingWork, clock: Clock, report: SpeedReport, goals: Mapping[str, float]) -> None:
    """Load in the file's own number format and in another one; both ways take turns."""
    with tempfile.TemporaryDirectory() as folder:
        config, size = write_checkpoint(Path(folder), work)
        for dtype, name, goal in (("float16", "as in the file", "same"), ("bfloat16", "converted to bf16", "cast")):
            found: dict[str, list[dict[str, float]]] = {"original": [], "ours": []}
            for _ in range(work.repeats):
                for way, samples in found.items():
                    samples.append(_load(way, config, dtype, in_process=work.in_process))
            mine, other = (median(sample["seconds"] for sample in found[way]) for way in ("ours", "original"))
            setting = f"{size / 2**20:.0f} MiB in fp16, {name}"
            report.add(
                Figure(
                    name="load", setting=setting, unit="s", ours=mine, original=other,
                    ratio=other / mine, goal=goals.get(goal),
                )
            )  # fmt: skip
            mine, other = (max(sample["peak"] for sample in found[way]) / size for way in ("ours", "original"))
            report.add(
                Figure(
                    name="load, largest memory against the files", setting=setting, unit="of the files",
                    ours=mine, original=other, ratio=mine, at_most=True,
                    goal=goals.get("memory") if goal == "same" else None,
                )
            )  # fmt: skip
    del clock


def write_checkpoint(folder: Path, work: LoadingWork) -> tuple[Path, int]:
    """A MiniGPT-4 (Llama-2 kind) in the released formats, nearly all of it vision tower: its YAML and its bytes."""
    width, inner = work.width, work.inner
    block = {
        "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
        "attn.q_bias": (width,), "attn.v_bias": (width,), "attn.qkv.weight": (3 * width, width),
        "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
        "mlp.fc1.weight": (inner, width), "mlp.fc1.bias": (inner,),
        "mlp.fc2.weight": (width, inner), "mlp.fc2.bias": (width,),
    }  # fmt: skip
    shapes = {
        "cls_token": (1, 1, width), "pos_embed": (1, 257, width),
        "patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,),
    } | {f"blocks.{n}.{name}": shape for n in range(work.blocks) for name, shape in block.items()}  # fmt: skip
    torch.save({name: torch.rand(*shape).half() for name, shape in shapes.items()}, folder / "eva_vit_g.pth")
    shutil.copytree(_DONOR, folder / "language_model")
    values = json.loads((folder / "language_model" / "config.json").read_text(encoding="utf-8"))
    hidden = values["hidden_size"]
    projection = {"llama_proj.weight": torch.rand(hidden, 4 * width).half(), "llama_proj.bias": torch.rand(hidden)}
    torch.save({"model": projection}, folder / "checkpoint.pth")
    config: dict[str, Any] = {
        "family": "minigpt4",
        "conversation": "llama_2",
        "has_qformer": False,
        "language_model": "language_model",
        "vision_tower": "eva_vit_g.pth",
        "checkpoint": "checkpoint.pth",
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_attention_heads": work.heads,
            "num_hidden_layers": work.blocks,
        },
    }
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    files = (*folder.glob("*.pth"), folder / "language_model" / "model.safetensors")
    return path, sum(file.stat().st_size for file in files)


def _load(way: str, config: Path, dtype: str, *, in_process: bool) -> dict[str, float]:
    if in_process:
        return measure(way, config, dtype)
    # Where the system can, new processes are copies of one that has imported everything.
    has_copies = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if has_copies else "spawn")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.submit(measure, way, config, dtype).result()


def measure(way: str, path: Path, dtype: str) -> dict[str, float]:
    """Load once in this process: CPU seconds, and the bytes of memory it grew by at most."""
    clock = Clock(torch.device("cpu"))
    load_ours(_SMALL_MODEL, dtype)  # imports what both need
    before = psutil.Process().memory_info().rss
    start = clock()
    total = touch(load_ours(path, dtype) if way == "ours" else load_as_the_originals(path, dtype))
    seconds = clock() - start
    return {"seconds": seconds, "peak": float(max(peak_memory() - before, 0)), "sum": total}


def load_ours(path: Path, dtype: str) -> list[Tensor]:
    """`load_model`, checks and all."""
    model = build_model(load_config(path, [f"dtype={dtype}", "device=cpu"]), report=None)
    return list(model.parameters())


def load_as_the_originals(path: Path, dtype: str) -> list[Tensor]:
    """Every module with random values in fp32, the files read whole, copied over, converted."""
    config = load_config(path)
    parts = family_module(config.family, source=path).parts(config, ReleasedFiles(config))
    weights: list[Tensor] = []
    for part in parts.values():
        is_transformers = issubclass(part.module_class, PreTrainedModel)
        with no_init_weights():  # transformers' own random values, in place of which the originals have these
            module = part.module_class(part.config) if is_transformers else part.module_class(**part.config)
        module.apply(_draw)
        read = {name: tensor.clone() for name, tensor in part.tensors.items()}  # the file, not mapped
        module.load_state_dict(read, strict=False)
        weights += module.to(getattr(torch, dtype)).parameters()
    return weights


def _draw(module: nn.Module) -> None:
    """Random values as EVA's file draws them: torch's for a linear layer, then a truncated normal distribution's."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        module.reset_parameters()
        nn.init.trunc_normal_(module.weight, std=0.02)


def touch(weights: list[Tensor]) -> float:
    """Read one value of every page, so that no part of a mapped file is still to come."""
    return float(sum(weight.detach().reshape(-1)[::2048].float().sum() for weight in weights))
