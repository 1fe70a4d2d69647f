"""A decode step in C gives what the model gives, to each chat whatever the others are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks import random_models
from engine.native import native_step, weight_formats
from engine.native.native_step import NativeStep
from models.native.compiled import NoNativeCode
from models.parts.sparse_moe import LinearExperts
from models.quantized.eight_bits import EightBitLinear, has_exact_integers, quantize_rows
from tests.engine.helpers import last, start
from tests.engine.native.helpers import SIZE, each_kind, each_shrunk, error, made, need_compiled_code, shrink
from tests.tiny_model import ask

LENGTH, ROOM = 9, 12
Chats = tuple[Tensor, Tensor]  # keys and values [layers, chats, heads, ROOM, width], of which LENGTH count


compiled = need_compiled_code


def chats(model: PreTrainedModel, count: int) -> Chats:
    config = model.config
    width = model.model.layers[0].self_attn.head_dim
    heads = 1 if config.model_type == "gemma" else config.num_key_value_heads
    generator = torch.Generator().manual_seed(0)
    shape = (config.num_hidden_layers, count, heads, ROOM, width)
    keys, values = (torch.randn(shape, generator=generator).to(model.dtype) for _ in range(2))
    return keys, values


def own(cache: Chats, chat: int, padding: int) -> DynamicCache:
    """The tokens of one chat as transformers has them."""
    found = DynamicCache()
    for layer, (keys, values) in enumerate(zip(*cache, strict=True)):
        found.update(*(side[chat : chat + 1, :, padding:LENGTH].clone() for side in (keys, values)), layer)
    return found


@torch.inference_mode()
def expected(model: PreTrainedModel, ids: Sequence[int], paddings: Sequence[int], cache: Chats) -> Tensor:
    """The model's own logits [chats, V], one chat after the other."""
    rows = []
    for chat, (token, padding) in enumerate(zip(ids, paddings, strict=True)):
        positions = torch.tensor([[LENGTH - padding]])
        past = own(cache, chat, padding)
        output = model(input_ids=torch.tensor([[token]]), position_ids=positions, past_key_values=past, use_cache=True)
        rows.append(output.logits[0, 0].float())
    return torch.stack(rows)


@torch.inference_mode()
def native(step: NativeStep, ids: Sequence[int], paddings: Sequence[int], cache: Chats) -> Tensor:
    positions = [LENGTH - padding for padding in paddings]
    return step.run(ids, positions, paddings, LENGTH + 1, [side.clone() for side in cache]).clone()


IDS, PADDINGS = (7, 300, 42, 8, 9), (0, 3, 8, 0, 5)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", random_models.BACKBONES)
def test_every_backbone(backbone: str, kind: str, is_packed: bool) -> None:
    model = made(backbone, kind, is_packed=is_packed)
    cache = chats(model, len(IDS))
    found = native(NativeStep(model), IDS, PADDINGS, cache)
    assert error(found, expected(model, IDS, PADDINGS, cache)) < (1e-5 if kind == "float32" else 0.03)


@each_shrunk
def test_weights_of_8_and_4_bits(kind: str) -> None:
    model = made("phi", kind)
    cache = chats(model, len(IDS))
    found = native(NativeStep(model), IDS, PADDINGS, cache)
    assert error(found, expected(model, IDS, PADDINGS, cache)) < 0.05


@pytest.mark.skipif(not has_exact_integers(), reason="this CPU has no exact products of integers")
def test_a_number_far_above_the_others_leaves_these_their_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix, rows = torch.randn(96, 512, generator=generator), torch.randn(3, 512, generator=generator)
    rows[1, 7] = 1000
    layer = EightBitLinear(*quantize_rows([matrix], matrix.shape), torch.randn(96, generator=generator))
    (weights,) = weight_formats.weights_of([layer])
    found = NativeStep(made())._product(weights, rows)
    torch.testing.assert_close(found, layer(rows), rtol=1e-4, atol=1e-2)


@each_shrunk
@pytest.mark.parametrize("backbone", ["sparse_phi", "sparse_qwen2"])
def test_experts_of_8_and_4_bits(backbone: str, kind: str) -> None:
    model: Any = made(backbone, "bfloat16", is_packed=False)
    for mlp in model.sparse_layers.values():
        has_bias = backbone == "sparse_phi"
        mlp.experts, mlp.linear_experts = None, LinearExperts(
            num_experts=SIZE.num_experts, hidden=SIZE.hidden, inner=SIZE.inner, activation=model.config.hidden_act,
            gated=not has_bias, bias=has_bias,
        ).bfloat16()  # fmt: skip
        shrink(mlp.linear_experts, kind)
    cache = chats(model, len(IDS))
    found = native(NativeStep(model), IDS, PADDINGS, cache)
    assert error(found, expected(model, IDS, PADDINGS, cache)) < 0.05


def test_new_keys_and_values_are_written() -> None:
    model = made()
    cache = chats(model, 2)
    past = own(cache, 1, 2)
    with torch.inference_mode():
        model(input_ids=torch.tensor([[7]]), position_ids=torch.tensor([[7]]), past_key_values=past, use_cache=True)
        NativeStep(model).run([5, 7], [9, 7], [0, 2], LENGTH + 1, cache)
    for layer, sides in enumerate(zip(*cache, strict=True)):
        mine: Any = past.layers[layer]
        for side, other in zip(sides, (mine.keys, mine.values), strict=True):
            torch.testing.assert_close(side[1, :, LENGTH], other[0, :, -1], rtol=1e-4, atol=1e-5)


@each_kind
def test_a_chats_numbers_are_the_same_to_the_bit_in_any_company(kind: str) -> None:
    model = made("sparse_qwen2", kind)
    cache, step = chats(model, len(IDS)), NativeStep(model)
    together = native(step, IDS, PADDINGS, cache)
    for chat, (token, padding) in enumerate(zip(IDS, PADDINGS, strict=True)):
        alone = (cache[0][:, chat : chat + 1], cache[1][:, chat : chat + 1])
        assert torch.equal(native(step, [token], [padding], alone)[0], together[chat])


def test_the_number_of_threads_makes_no_difference() -> None:
    large = dataclasses.replace(SIZE, hidden=512, inner=1024, layers=1)  # worth several threads
    model = random_models.random_model("llama", large, context_tokens=64).language_model.eval()
    cache, step, before = chats(model, len(IDS)), NativeStep(model), torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(native(step, IDS, PADDINGS, cache))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@each_kind
def test_numbers_that_are_none_stay_with_their_chat(kind: str, number: float) -> None:
    model = made("mixtral", kind)
    cache, step = chats(model, len(IDS)), NativeStep(model)
    before = native(step, IDS, PADDINGS, cache)
    cache[1][0, 1, :, PADDINGS[1]] = number
    found = native(step, IDS, PADDINGS, cache)
    assert not found[1].isfinite().any()
    others = [chat for chat in range(len(IDS)) if chat != 1]
    assert torch.equal(found[others], before[others])


def test_weights_that_lie_otherwise_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made()
    monkeypatch.setattr(weight_formats, "_in_blocks", lambda packed, *_: torch.ops.mkldnn.data_ptr(packed) + 256)
    with pytest.raises(NoNativeCode, match="differ from the layer's"):
        NativeStep(model)


def test_layers_that_it_does_not_know() -> None:
    model: Any = made("sparse_phi")
    model.sparse_layers[0].router.noise = torch.zeros_like
    with pytest.raises(NoNativeCode, match="experts"):
        NativeStep(model)
    with pytest.raises(NoNativeCode, match="float16"):
        NativeStep(made(kind="float16", is_packed=False))


def test_what_it_leaves_to_the_model() -> None:
    model = made()
    step = NativeStep(model)
    assert step.takes([7])
    hook = model.register_forward_hook(lambda *_: None)
    assert not step.takes([7])  # somebody looks into the model
    hook.remove()
    assert step.takes([7] * 64)
    assert not step.takes([7] * 65)
    assert not step.takes([7, SIZE.vocabulary])  # an image's id


def test_the_engine_decodes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    run = NativeStep.run

    def counted(step: NativeStep, ids: Sequence[int], *args: Any) -> Tensor:
        counts.append(len(ids))
        return run(step, ids, *args)

    monkeypatch.setattr(NativeStep, "run", counted)
    model = random_models.random_model("llama", random_models.SMALL, context_tokens=256)
    with start(model) as engine:
        answer = last(engine, ask("what is it", random_models.picture(1)))
    assert counts == [1] * (answer.num_new_tokens - 1) != []


def test_the_log_has_the_reason_where_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert native_step.native_step(made(kind="float16", is_packed=False)) is None
    (record,) = caplog.records
    assert record.getMessage().startswith("Answers are written without compiled code: ")
