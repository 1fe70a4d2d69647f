"""Every family loads on a GPU in every number format, all of it, and answers as on the CPU."""

from __future__ import annotations

from itertools import chain

import pytest
import torch

from engine.generate import generate
from engine.generating_model import GeneratingModel
from models.conversation import Sampling
from models.errors import NotEnoughMemory
from tests.on_gpu.tiny_families import FAMILIES, GREEDY, Gpus, cpu_texts, load, question


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_is_on_the_device_in_each_number_format(family: str, gpus: Gpus) -> None:
    for name, dtype in (("float32", torch.float32), ("float16", torch.float16), ("auto", torch.bfloat16)):
        model = load(family, "cuda:1", dtype=name)
        assert {str(tensor.device) for tensor in chain(model.parameters(), model.buffers())} == {"cuda:1"}
        routers = ("router.weight",) if family == "moe_llava" else ()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.dtype == (torch.float32 if parameter_name.endswith(routers) else dtype)
        if dtype != torch.float32:  # which the next test asks
            assert len(generate(model, [question(0)], Sampling(temperature=0, max_new_tokens=2))[0].ids) == 2
    assert gpus[0].used_bytes == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_terminal_answers_as_on_the_cpu(family: str) -> None:
    """Through `generate`: alone, and two in one batch."""
    model, expected = load(family), cpu_texts(family)
    answers = generate(model, [question(0), question(1)], GREEDY)
    assert tuple(answer.text for answer in answers) == expected[:2]


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@pytest.mark.parametrize("family", ["minigpt_v2", "tinygpt_v"])
def test_quantized_weights_answer_as_on_the_cpu(family: str, quantization: str) -> None:
    """The same ids from the same rounded weights."""
    ids = []
    for device in ("cpu", "cuda:0"):
        model = load(family, device, quantization=quantization)
        ids.append([generate(model, [question(number)], GREEDY)[0].ids for number in range(2)])
    assert ids[0] == ids[1]


def test_generate_looks_things_up_in_the_prompt(gpus: Gpus) -> None:
    model = load("minigpt_v2")
    turns = question(0)
    shown = []
    for options in ({}, {"prompt_lookup": 3}, {"num_beams": 2}):
        *_, answer = GeneratingModel(model, **options).stream(turns, GREEDY)
        shown.append(answer.text)
    assert shown[0] == shown[1] != ""
    assert shown[2]


def test_a_model_that_does_not_fit_is_refused_before_anything_is_allocated(gpus: Gpus) -> None:
    used = gpus[0].used_bytes
    gpus[0].leave(1 << 20)
    with pytest.raises(NotEnoughMemory, match=r"10 MiB of weights; 1 MiB free on cuda:0. That is not enough"):
        load("minigpt_v2")
    assert gpus[0].used_bytes == used


@pytest.mark.parametrize("family", ["minigpt_v2", "mini_gemini"])
@pytest.mark.parametrize("quantization", ["none", "4bit"])
def test_memory_that_goes_while_loading_is_one_error(
    family: str, quantization: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 30, 64 << 30))  # and then somebody else takes it
    gpus[0].leave(3 << 20)
    with pytest.raises(NotEnoughMemory, match="cuda:0 ran out of memory while loading") as error:
        load(family, quantization=quantization)
    assert "\n" not in str(error.value)
