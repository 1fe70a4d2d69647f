"""Values of config.json that say how a model was run when it was saved change nothing of what is answered here."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from engine.generate import generate
from models.conversation import Sampling, Turn
from models.loader import load_model
from tests.paths import GOLDENS

AS_IT_WAS_RUN = {
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict": False,
    "use_return_dict": False,
    "use_cache": False,
    "torchscript": True,
    "is_encoder_decoder": True,
    "attn_implementation": "flash_attention_2",
    "_attn_implementation": "flash_attention_2",
    "_experts_implementation": "grouped_mm_of_tomorrow",
    "cache_implementation": "quantized_of_tomorrow",
    "layer_types": ["full_attention"],
    "id2label": None,
}
CASES = ("minigpt_v2", "tinygptv-stage3", "mgm-2b", "moe-llava-phi2")  # Llama, Phi, Gemma and experts; CLIP


def answer(case: Path) -> list[int]:
    model = load_model(case / "config.yaml", device="cpu", dtype="float32", report=None)
    turns = [Turn("user", "What is this?", (Image.linear_gradient("L").convert("RGB"),))]
    return list(generate(model, [turns], Sampling(temperature=0, max_new_tokens=6))[0].ids)


@pytest.mark.parametrize("case", CASES)
def test_it_is_passed_over(case: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / case, tmp_path / "case", copy_function=os.link)
    for file in (tmp_path / "case").rglob("config.json"):
        values = json.loads(file.read_text())
        for inner in (values, *(value for key, value in values.items() if key == "vision_config")):
            inner.update(AS_IT_WAS_RUN)
        file.unlink()  # of the original there is only a link
        file.write_text(json.dumps(values))
    assert answer(tmp_path / "case") == answer(GOLDENS / case)
