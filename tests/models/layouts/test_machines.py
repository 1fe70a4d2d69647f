"""docs/measurements.md says which released model fits which machine: as `models/memory` plans it, for every one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from models.config import load_config
from models.memory.sizes import HEADROOM, kv_bytes_per_token, weight_bytes
from models.tensors.weights import Part
from tests.models.layouts.full_size import BITS, released
from tests.paths import ROOT

DOCUMENT = ROOT / "docs" / "measurements.md"
GIB = 2**30
# GiB for a model. Of the laptop's memory the system, a browser and the program have 5; of a GPU's, CUDA has 0.6.
MACHINES = {
    "laptop, 16 GB": 14.9 - 5,
    "GPU, 8 GB": 8 - 0.6,
    "12 GB": 12 - 0.6,
    "24 GB": 24 - 0.6,
    "80 GB": 80 - 0.6,
}
CHAT_TOKENS = 2048  # of one conversation, whose keys and values lie in pages and, where it is decoded, once more


def needed(parts: Mapping[str, Part], quantization: str) -> float:
    """GiB for the weights and one conversation."""
    chat = 2 * CHAT_TOKENS * kv_bytes_per_token(parts["language_model"].config, torch.bfloat16)
    return (weight_bytes(parts.values(), torch.bfloat16, quantization) * HEADROOM + chat) / GIB


def best(parts: Mapping[str, Part], room: float, *, on_cpu: bool) -> str:
    """The most bits that fit; on a CPU none or 4, as 8 are slower there than 16."""
    choices = [name for name in BITS if not (on_cpu and name == "8bit")]
    return next((BITS[name] for name in choices if needed(parts, name) <= room), "–")


def table() -> list[str]:
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, parts in released():
        cells = tuple(best(parts, room, on_cpu="laptop" in machine) for machine, room in MACHINES.items())
        rows.setdefault(cells, []).append(load_config(ROOT / "eval_configs" / f"{name}.yaml").name)
    head = ["| Model | " + " | ".join(MACHINES) + " |", "|---|" + "---|" * len(MACHINES)]
    return head + [f"| {', '.join(names)} | " + " | ".join(cells) + " |" for cells, names in rows.items()]


def test_the_table_of_machines_is_what_is_planned() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    written = text.split("<!-- machines:begin -->\n")[1].split("\n<!-- machines:end -->")[0]
    assert written.splitlines() == table()
