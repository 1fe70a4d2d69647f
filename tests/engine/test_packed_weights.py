"""Weights in oneDNN's layout: the same results, and nothing changed that must stay as it is."""

from __future__ import annotations

import copy
import gc
import sys
import threading
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, PhiConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from benchmarks.random_models import BACKBONES, SMALL, ModelSize, fill, picture, random_model
from engine import packed_weights
from engine.chat_engine import ChatEngine
from engine.packed_weights import PackedExperts, PackedLinear, PackedPieces, pack_weights
from models.conversation import Sampling, Turn
from models.loader import load_model, materialise
from models.parts.sparse_decoders import VocabularyHead
from models.parts.sparse_moe import GatedExperts, PlainExperts
from models.tensors.weights import Part
from tests.own_memory import own_and_mapped
from tests.paths import GOLDENS

CASES = sorted((GOLDENS).glob("*/config.yaml"))
FP32, BF16 = torch.float32, torch.bfloat16
pytestmark = pytest.mark.skipif(
    not packed_weights._HAS_ONEDNN, reason="this CPU or build of torch has no oneDNN: nothing is packed"
)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this CPU's oneDNN computes in this format; where it doesn't, weights must stay as they are."""
    return dtype == FP32 or packed_weights._HAS_BF16


def made(layer: nn.Module, dtype: torch.dtype) -> nn.Sequential:
    fill([layer], seed=0, device="cpu")
    return nn.Sequential(layer.to(dtype).eval())


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_linear_layer_gives_the_same(has_bias: bool, dtype: torch.dtype) -> None:
    plain = made(nn.Linear(96, 130, bias=has_bias), dtype)
    packed = copy.deepcopy(plain)
    pack_weights(packed, least_weights=0)
    assert type(packed[0]) is (PackedLinear if can_pack(dtype) else nn.Linear)
    assert next(packed.parameters()).dtype == dtype
    for inputs in (torch.randn(1, 96), torch.randn(2, 9, 96), torch.randn(96, 5).T, torch.randn(0, 96)):
        with torch.inference_mode():
            ours, theirs = packed(inputs.to(dtype)), plain(inputs.to(dtype))
        # fp32 sums come in another order.
        torch.testing.assert_close(ours, theirs, rtol=0 if dtype == BF16 else 1e-5, atol=0 if dtype == BF16 else 1e-5)


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_very_large_layer_gives_the_same(has_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "_MOST_WEIGHTS", 96 * 40)
    plain = made(nn.Linear(96, 130, bias=has_bias), FP32)
    packed = copy.deepcopy(plain)
    pack_weights(packed, least_weights=0)
    assert isinstance(packed[0], PackedPieces)
    assert len(packed[0].pieces) == 4
    for inputs in (torch.randn(1, 96), torch.randn(2, 9, 96), torch.randn(0, 96)):
        with torch.inference_mode():
            torch.testing.assert_close(packed(inputs), plain(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own figures")
@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_very_large_layer_is_never_there_twice(
    is_mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_weights, "_MOST_WEIGHTS", 2**21)
    head = nn.Linear(1024, 2**14, bias=False)
    if is_mapped:
        torch.save({"weight": head.weight.detach()}, tmp_path / "head.pth")
        head.load_state_dict(torch.load(tmp_path / "head.pth", mmap=True, weights_only=True), assign=True)
    model, before, most = nn.Sequential(head), sum(own_and_mapped()), 0
    before += 0 if not is_mapped else head.weight.nbytes  # which is read only now
    del head
    pack = packed_weights._packed

    def look(weight: Tensor) -> Tensor:
        nonlocal most
        packed = pack(weight)
        most = max(most, sum(own_and_mapped()) - before)
        return packed

    monkeypatch.setattr(packed_weights, "_packed", look)
    pack_weights(model)
    assert most < 24 * 2**20  # of 64 MiB, in pieces of 8


def test_a_head_that_its_file_holds_once_with_the_embedding_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "_MOST_WEIGHTS", 2**10)
    embedding, head = nn.Embedding(64, 64), nn.Linear(64, 64, bias=False)
    head.weight = nn.Parameter(embedding.weight.detach())
    model = nn.ModuleList([embedding, head])
    pack_weights(model, least_weights=0)
    assert type(model[1]) is nn.Linear


@pytest.mark.parametrize("has_bf16", [False, True])
def test_bf16_is_packed_only_where_onednn_has_it(has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "_HAS_BF16", has_bf16)
    monkeypatch.setattr(packed_weights, "_packed", lambda weight: weight.detach().clone())  # no CPU need have it
    layers = nn.Sequential(made(nn.Linear(96, 130), BF16), made(nn.Linear(96, 130), FP32))
    pack_weights(layers, least_weights=0)
    assert [type(layer[0]) is PackedLinear for layer in layers.children() if isinstance(layer, nn.Sequential)] == [
        has_bf16,
        True,
    ]


def test_the_vocabulary_keeps_its_limit() -> None:
    head = VocabularyHead(96, 130, bias=False)
    head.limit(100)
    plain = made(head, FP32)
    packed = copy.deepcopy(plain)
    pack_weights(packed, least_weights=0)
    inputs = torch.randn(3, 96)
    assert packed(inputs).shape == (3, 100)
    torch.testing.assert_close(packed(inputs), plain(inputs), rtol=1e-5, atol=1e-5)


def experts_of(kind: str) -> nn.Module:
    if kind == "mixtral":
        mixtral = MixtralConfig(hidden_size=64, intermediate_size=96, num_local_experts=4)
        mixtral._experts_implementation = "eager"
        return MixtralExperts(mixtral)
    config = PhiConfig(hidden_size=64, intermediate_size=96, hidden_act="gelu_new" if kind == "plain" else "silu")
    config._experts_implementation = "eager"
    return PlainExperts(config, 4) if kind == "plain" else GatedExperts(config, 4)


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("kind", ["gated", "plain", "mixtral"])
@pytest.mark.parametrize("count", [1, 2, 17])
def test_experts_give_the_same(kind: str, count: int, dtype: torch.dtype) -> None:
    plain = made(experts_of(kind), dtype)
    packed = copy.deepcopy(plain)
    pack_weights(packed, least_weights=0)
    assert isinstance(packed[0], PackedExperts) == can_pack(dtype)
    generator = torch.Generator().manual_seed(count)
    tokens = torch.randn(count, 64, generator=generator).to(dtype)
    weights, index = torch.rand(count, 4, generator=generator).topk(2, dim=-1)
    if kind != "mixtral":  # whose router gives its weights in fp32
        weights = weights.to(dtype)
    with torch.inference_mode():
        ours, theirs = packed[0](tokens, index, weights), plain[0](tokens, index, weights)
    assert ours.dtype == dtype
    # In bf16 the two experts' shares are rounded before they are added, in either order: one step of 2**-8.
    tolerance = 1e-5 if dtype == FP32 else 2**-8
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_what_cannot_or_need_not_be_packed_stays() -> None:
    class Other(nn.Linear):
        """As quantized layers and peft's are."""

    embedding, head = nn.Embedding(66, 64), nn.Linear(64, 66, bias=False)
    head.weight = embedding.weight
    halves, on_meta = nn.Linear(64, 64).half(), nn.Linear(64, 64, device="meta")
    model = nn.ModuleList([embedding, head, Other(64, 64), halves, on_meta, nn.LayerNorm(64), nn.Linear(64, 65)])
    kinds = [type(layer) for layer in model]
    pack_weights(model, least_weights=64 * 65)
    assert [type(layer) for layer in model] == [*kinds[:-1], PackedLinear]
    pack_weights(model)  # a second engine over the same model
    assert [type(layer) for layer in model] == [*kinds[:-1], PackedLinear]


def test_the_plain_weights_are_let_go() -> None:
    model = nn.Sequential(nn.Linear(64, 64), experts_of("gated"))
    kept = [weakref.ref(parameter) for parameter in model.parameters() if parameter.dim() > 1]
    assert len(kept) == 3
    pack_weights(model, least_weights=0)
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_no_more_than_one_layer_is_there_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer's plain weights are gone when the next one is packed, whoever its parent is."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)), nn.Sequential(nn.Linear(64, 64)))
    plain = [weakref.ref(module.weight) for module in model.modules() if isinstance(module, nn.Linear)]
    left: list[int] = []
    pack = packed_weights._packed

    def count(weight: Tensor) -> Tensor:
        left.append(sum(ref() is not None for ref in plain))
        return pack(weight)

    monkeypatch.setattr(packed_weights, "_packed", count)
    pack_weights(model, least_weights=0)
    assert left == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.parent.name)
def test_a_released_model_gives_the_same_logits(path: Path) -> None:
    model = load_model(path, device="cpu", dtype="float32", report=None)
    ids = torch.arange(3, 20)[None]

    def run() -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            return model.language_model(input_ids=ids).logits, model.encode_images([picture(1)])[0]

    before = run()
    pack_weights(model, least_weights=0)
    assert any(isinstance(module, PackedLinear) for module in model.language_model.modules())
    for ours, theirs in zip(run(), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_engine_packs_what_it_serves(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.chat_engine.pack_weights", partial(pack_weights, least_weights=0))
    size: ModelSize = replace(SMALL, hidden=128, inner=192)
    model, plain = (random_model(backbone, size, context_tokens=256) for _ in range(2))
    turns = [Turn("user", "what is it", (picture(1),))]
    sampling = Sampling(temperature=0, repetition_penalty=1, max_new_tokens=8)
    with ChatEngine(model, max_concurrent=2, page_size=8) as engine:
        answer = list(engine.stream(turns, sampling))[-1]
    assert any(isinstance(module, PackedLinear) for module in model.language_model.modules())
    assert any(isinstance(module, PackedExperts) for module in model.language_model.modules()) == (
        backbone == "mixtral" or backbone.startswith("sparse")
    )
    with torch.inference_mode():
        ids = plain.language_model.generate(  # type: ignore[operator]
            inputs_embeds=plain.embed_prompt(turns)[None], max_new_tokens=8, do_sample=False, pad_token_id=0
        )[0].tolist()
    assert answer.text == plain.prompt_format.finish(plain.tokenizer.decode(ids))


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own figures")
def test_4_bit_weights_are_in_memory_once_when_a_thread_has_used_them() -> None:
    """Where the CPU has bfloat16 instructions, bitsandbytes packs them anew at their first product."""
    config = LlamaConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=6, num_attention_heads=8, vocab_size=64
    )
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    values = torch.randn(4096, 1024, dtype=BF16).view(-1)
    part = Part(
        name="language model", source="here", module_class=LlamaForCausalLM, config=config, is_quantizable=True,
        tensors={name: values[: shape.numel()].view(shape) for name, shape in names.items()},
    )  # fmt: skip
    model = materialise(part, device=torch.device("cpu"), dtype=BF16, quantization="4bit")
    pack_weights(model)
    before = own_and_mapped()[0]

    def answer() -> None:
        with torch.inference_mode():
            model(input_ids=torch.zeros(1, 1, dtype=torch.int64))

    thread = threading.Thread(target=answer)
    thread.start()
    thread.join()
    assert own_and_mapped()[0] - before < 16 * 2**20  # the weights are 50 MiB
