"""Stages in miniature: the recorded tiny models, a few made pictures, annotations in every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.paths import GOLDENS
from training.recipe import Recipe, load_recipe


def draw_pictures(folder: Path, names: list[str]) -> None:
    """Pictures of noise, 20 x 30 pixels and a little larger each."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (30 + seed, 20 + seed, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def write_json(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return path


def aligned_captions(folder: Path, count: int = 6) -> None:
    """A cc_sbu_align folder."""
    draw_pictures(folder / "image", [f"{number}.jpg" for number in range(count)])
    items = [{"image_id": number, "caption": f"a dog and {number} birds"} for number in range(count)]
    write_json(folder / "filter_cap.json", {"annotations": items})


def conversations(folder: Path, count: int = 4) -> None:
    """A LLaVA conversation file with COCO names, of two turns each."""
    draw_pictures(folder / "coco", [f"COCO_train2014_{number:012d}.jpg" for number in range(count)])
    values = ["<image>\nwhat is this", "a red ball", "where is it?", "on the left"]
    items = [
        {"id": f"{number:012d}", "conversations": [{"value": f"{value} {number}"} for value in values]}
        for number in range(count)
    ]
    write_json(folder / "conversation_58k.json", items)


def case_values(case: str) -> dict[str, Any]:
    """A recorded case's config with absolute paths, as a recipe's `model`."""
    folder = GOLDENS / case
    values = yaml.safe_load((folder / "config.yaml").read_text())
    return {
        key: str(folder / value) if isinstance(value, str) and value.startswith("weights/") else value
        for key, value in values.items()
        if key != "name"
    }


def tiny_recipe(folder: Path, case: str, **changed: Any) -> Recipe:
    """A stage of six steps over a recorded model, written as a YAML and read again."""
    data = folder / "data"
    if not data.exists():
        aligned_captions(data / "align")
        conversations(data)
    values: dict[str, Any] = {
        "name": f"tiny {case}",
        "model": case_values(case),
        "stage": "2",
        "text": {"prompt": "instruction", "template": "[INST] {} [/INST]", "answer_end": "</s>", "max_tokens": 40},
        "data": {
            "folder": str(data),
            "workers": 0,
            "datasets": [
                {"format": "cc_sbu_align", "annotations": "align", "ratio": 2, "batch_size": 2},
                {
                    "format": "llava_conversation",
                    "annotations": "conversation_58k.json",
                    "images": "coco",
                    "batch_size": 1,
                },
            ],
        },
        "schedule": {
            "kind": "minigpt",
            "init_lr": 1.0e-3,
            "min_lr": 1.0e-4,
            "warmup_lr": 1.0e-5,
            "warmup_steps": 2,
            "epochs": 2,
            "steps_per_epoch": 3,
        },
        "output_dir": str(folder / "output"),
        "precision": "no",
        "save_every_steps": 1,
        "keep_checkpoints": 20,
        "log_every_steps": 1,
        "tracker": "none",
    }
    for key, value in changed.items():
        values[key] = values[key] | value if isinstance(value, dict) and key in values else value
    path = folder / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return load_recipe(path)


def llava_recipe(folder: Path, case: str, stage: str, **changed: Any) -> Recipe:
    """Two steps over pictures and texts in the LLaVA line's format."""
    draw_pictures(folder / "data", ["a.png", "b.png", "c.png"])
    answer = {"from": "gpt", "value": "a red circle"}
    items: list[dict[str, Any]] = [
        {"id": n, "image": f"{n}.png", "conversations": [{"from": "human", "value": "<image>\nwhat?"}, answer]}
        for n in "abc"
    ]
    items.append({"id": "d", "conversations": [{"from": "human", "value": "what is red?"}, answer]})
    write_json(folder / "data" / "items.json", items)
    values: dict[str, Any] = {
        "stage": stage,
        "text": {"prompt": "chat", "max_tokens": 2048},
        "data": {
            "folder": str(folder / "data"),
            "workers": 0,
            "mixing": "by_length" if stage != "1" else "shuffle",
            "batch_size": 2,
            "datasets": [{"format": "moe_llava", "annotations": "items.json"}],
        },
        "schedule": {"kind": "warmup_cosine", "init_lr": 1.0e-3, "warmup_ratio": 0.03, "epochs": 1},
        "optimiser": {"weight_decay": 0.0},
    }
    return tiny_recipe(folder, case, **values, **changed)
