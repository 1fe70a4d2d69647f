"""docs/scaling.md says how many people a replica of each family serves: as planned from the released sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.scale_simulation.capacity import MACHINES, Habits, Sizes, capacity_rows
from benchmarks.scale_simulation.growth import MINIGPT_V2
from models.config import load_config
from models.memory.sizes import HEADROOM, kv_bytes_per_token, weight_bytes
from tests.models.layouts.full_size import BITS, released
from tests.paths import ROOT

DOCUMENT = ROOT / "docs" / "scaling.md"
SHOWN = ("minigpt4_vicuna0_7b", "minigpt_v2", "tinygptv_stage4", "mgm_2b", "mgm_7b", "mgm_13b", "moe_llava_phi2")
IMAGE_TOKENS = {"minigpt4_vicuna0_7b": 32, "minigpt_v2": 256, "tinygptv_stage4": 32}
MOST_IMAGE_TOKENS = 576
LENGTHS = (50, 100, 300)


def table() -> list[str]:
    habits = [replace(Habits(), answer=length) for length in LENGTHS]
    rows = []
    for name, parts in released():
        if name in SHOWN:
            language = parts["language_model"]
            kv_token = kv_bytes_per_token(language.config, torch.bfloat16)
            decoder = weight_bytes([language], torch.bfloat16, "none")
            variants = [
                (
                    bits,
                    Sizes(
                        weights=weight_bytes(parts.values(), torch.bfloat16, kind) * HEADROOM,
                        decoder=decoder,
                        kv_token=kv_token,
                        image=IMAGE_TOKENS.get(name, MOST_IMAGE_TOKENS),
                    ),
                )
                for kind, bits in BITS.items()
            ]
            rows += capacity_rows(load_config(ROOT / "eval_configs" / f"{name}.yaml").name, variants, habits)
    head = "| Model | Weights | A conversation | " + " | ".join(one.name for one in MACHINES) + " |"
    return [head, "|---|---|--:|" + "--:|" * len(MACHINES), *rows]


def test_the_model_whose_growth_is_simulated_has_its_size() -> None:
    parts = dict(released())["minigpt_v2"]
    assert weight_bytes(parts.values(), torch.bfloat16, "none") * HEADROOM == pytest.approx(
        MINIGPT_V2.weights, rel=0.01
    )
    assert weight_bytes([parts["language_model"]], torch.bfloat16, "none") == pytest.approx(
        MINIGPT_V2.decoder, rel=0.01
    )
    assert kv_bytes_per_token(parts["language_model"].config, torch.bfloat16) == MINIGPT_V2.kv_token


def test_the_table_of_people_is_what_is_planned() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    written = text.split("<!-- capacity:begin -->\n")[1].split("\n<!-- capacity:end -->")[0]
    assert written.splitlines() == table()
