"""A language model whose layers are spread over two GPUs answers as on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.generate import generate
from models.errors import ConfigError, NotEnoughMemory
from models.loader import load_model
from models.memory.spreading import layer_devices
from tests.engine.batching.helpers import steady_of
from tests.engine.helpers import assert_idle, last
from tests.models.families.mgm_writer import Form, write_model
from tests.on_gpu.tiny_families import GREEDY, Gpus, cpu_texts, load, question, start
from tests.paths import GOLDENS, ROOT
from tests.training.tiny_stages import llava_recipe, tiny_recipe
from training.train import run_stage

BOTH = "cuda:0,cuda:1"
TINY = ROOT / "eval_configs" / "tiny_minigpt_v2.yaml"
MIB = 2**20


@pytest.mark.parametrize("family", ["minigpt_v2", "tinygpt_v", "mini_gemini", "moe_llava"])
def test_answers_are_those_of_one_device(family: str, gpus: Gpus) -> None:
    """Llama, Phi, Gemma and a sparse model: through the engine, with prefixes that are found again, and `generate`."""
    model = load(family, BOTH)
    assert set(layer_devices(model.language_model)) == {torch.device("cuda:0"), torch.device("cuda:1")}
    beside = [p for name, p in model.named_parameters() if not name.startswith("language_model.model.layers.")]
    assert {str(parameter.device) for parameter in beside} == {"cuda:0"}
    assert generate(model, [question(1)], GREEDY)[0].text == cpu_texts(family)[1]
    before = [gpu.used_bytes for gpu in gpus]
    with start(model, max_concurrent=3) as engine:
        assert all(gpu.used_bytes > used + MIB for gpu, used in zip(gpus, before, strict=True)), "no pages there"
        assert tuple(last(engine, question(number), GREEDY).text for number in range(3)) == cpu_texts(family)
        reused = engine.stats().prompt_tokens_reused
        assert last(engine, question(0), GREEDY).text == cpu_texts(family)[0]
        assert engine.stats().prompt_tokens_reused > reused
        assert steady_of(engine).num_tokens > 0
        assert_idle(engine)


def test_mixtral_answers_as_on_the_cpu(tmp_path: Path) -> None:
    pieces = next((GOLDENS / "mgm-7b").rglob("tokenizer.model"))
    values = {"rope_theta": 1e6, "sliding_window": None, "model_type": "mgm_mixtral"}
    form = Form(tokenizer="sentencepiece", is_sparse=True, values=values, tokenizer_values={"legacy": True})
    write_model(tmp_path / "model", form, pieces)
    texts = []
    for device in ("cpu", BOTH):
        model = load_model(tmp_path / "config.yaml", device=device, dtype="float32", report=None)
        with start(model) as engine:
            texts.append([last(engine, question(number), GREEDY).text for number in range(2)])
    assert texts[0] == texts[1]
    assert len(set(layer_devices(model.language_model))) == 2


@pytest.mark.parametrize("family", ["minigpt_v2", "moe_llava"])
def test_4_bits_answer_as_on_one_gpu(family: str) -> None:
    texts = [
        generate(load(family, device, quantization="4bit"), [question(0)], GREEDY)[0].text
        for device in ("cuda:1", BOTH)
    ]
    assert texts[0] == texts[1]


def test_auto_takes_both_where_one_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("models.devices.free_bytes", lambda _: 9 * MIB + MIB // 2)
    model = load_model(TINY, device="auto", dtype="float32", report=said.append, overrides=["context_tokens=128"])
    assert model.info.device == BOTH
    assert len(set(layer_devices(model.language_model))) == 2
    assert "of weights; 19 MiB free on cuda:0,cuda:1" in said[0]
    assert said[1].startswith("Memory: cuda:0 ")
    assert "MiB of weights and " in said[1]


def test_auto_takes_one_where_that_is_enough() -> None:
    assert load("minigpt_v2", "auto").info.device == "cuda"


def test_no_room_for_keys_and_values_is_said_before_anything_is_allocated(gpus: Gpus) -> None:
    used = [gpu.used_bytes for gpu in gpus]
    with pytest.raises(
        NotEnoughMemory, match=r"are free for keys and values on cuda:0,cuda:1; .* are needed\. Use more"
    ):
        load_model(TINY, device=BOTH, report=None, overrides=["kv_memory=500GiB", "max_chats=9000"])
    assert [gpu.used_bytes for gpu in gpus] == used


@pytest.mark.parametrize("device", ["cuda:0,cpu", "cuda:0,cuda:0", "cuda,cuda:1", "cuda:0,cuda:7"])
def test_devices_that_are_no_pair_of_gpus_are_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        load_model(TINY, device=device, report=None)


class _LossIsThere(Exception):
    """What follows is torch's own, which no pretended device can do."""


@pytest.mark.parametrize("case", ["minigpt_v2", "moe-llava-stablelm"])
def test_training_has_the_same_loss(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With LoRA adapters, and with experts whose balance losses are on both; up to the backward pass."""
    found: list[float] = []

    def keep(loss: torch.Tensor, **_: object) -> None:
        found.append(float(loss.detach()))
        raise _LossIsThere

    monkeypatch.setattr(torch.Tensor, "backward", keep)
    for folder, device in (("one", "cpu"), ("both", BOTH)):
        if case == "minigpt_v2":
            recipe = tiny_recipe(tmp_path / folder, case, model={"device": device})
        else:
            recipe = llava_recipe(tmp_path / folder, case, "3", model={"device": device})
        with pytest.raises(_LossIsThere):
            run_stage(recipe)
    assert found[1] == pytest.approx(found[0], rel=1e-5)
