"""What a part in 8 or 4 bits is made of on a CPU, and what it takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.loader import load_model, materialise
from models.memory.sizes import weight_bytes
from models.quantized import arranged
from models.quantized.eight_bits import EightBitLinear, has_exact_integers
from models.quantized.four_bits import FourBitLinear
from models.quantized.loading import from_pretrained
from models.tensors.freed import give_back_freed_memory
from models.tensors.weights import Part
from tests.own_memory import own_and_mapped
from tests.paths import GOLDENS

CPU = torch.device("cpu")


def part_of(config: LlamaConfig) -> Part:
    """Random weights of which all matrices are the same memory."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    values = torch.randn(max(shape.numel() for shape in shapes.values()), dtype=torch.bfloat16)
    tensors = {name: values[: shape.numel()].view(shape) for name, shape in shapes.items()}
    return Part(
        name="language model", source="here", module_class=LlamaForCausalLM, config=config, tensors=tensors,
        is_quantizable=True,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own figures")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_as_much_is_taken_as_was_announced(quantization: str, dtype: torch.dtype) -> None:
    config = LlamaConfig(
        hidden_size=1024, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8, vocab_size=16000
    )
    part, small = part_of(config), LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, vocab_size=9)
    materialise(part_of(small), device=CPU, dtype=dtype, quantization=quantization)  # and what comes with the libraries
    give_back_freed_memory()
    before = own_and_mapped()[0]
    model = materialise(part, device=CPU, dtype=dtype, quantization=quantization)
    with torch.inference_mode():
        model(input_ids=torch.zeros(1, 1, dtype=torch.int64))
    give_back_freed_memory()
    taken = own_and_mapped()[0] - before
    announced = weight_bytes([part], dtype, quantization, on_cpu=True)
    assert taken == pytest.approx(announced, rel=0.1)


@pytest.mark.parametrize(("case", "is_tied"), [("mgm-2b", True), ("mgm-7b", False), ("moe-llava-stablelm", False)])
def test_a_head_that_is_no_embedding_is_in_8_bits(case: str, is_tied: bool) -> None:
    path: Path = GOLDENS / case / "config.yaml"
    full, model = (load_model(path, device="cpu", quantization=kind, report=None) for kind in ("none", "4bit"))
    head, plain = (each.language_model.get_output_embeddings() for each in (model, full))
    if is_tied:
        assert head.weight is model.text_embedding.weight
    else:
        assert isinstance(head, EightBitLinear)
    hidden = torch.randn(3, full.text_embedding.weight.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mine, expected = head(hidden), plain(hidden)  # as many logits as there are pieces
    assert mine.shape == expected.shape
    assert (mine - expected).norm() < 0.02 * expected.norm()


def test_a_head_that_is_read_by_rows_is_nowhere_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers keeps what stands for it as it is."""
    config = LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, vocab_size=99)
    taken: list[int] = []

    def seen(*args: Any, **options: Any) -> Any:
        module: Any = from_pretrained(*args, **options)
        taken.append(module.get_output_embeddings().weight.untyped_storage().nbytes())
        return module

    monkeypatch.setattr("models.quantized.loading.from_pretrained", seen)
    materialise(part_of(config), device=CPU, dtype=torch.bfloat16, quantization="4bit")
    assert taken == [torch.bfloat16.itemsize]


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@torch.inference_mode()
def test_layers_of_the_same_inputs_are_one_and_say_the_same(quantization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaConfig(
        hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=99, attention_bias=True,
    )  # fmt: skip
    part = part_of(config)
    model = materialise(part, device=CPU, dtype=torch.bfloat16, quantization=quantization)
    monkeypatch.setattr(arranged, "SAME_INPUTS", ())
    apart = materialise(part, device=CPU, dtype=torch.bfloat16, quantization=quantization)
    counts = [sum(isinstance(m, EightBitLinear | FourBitLinear) for m in one.modules()) for one in (model, apart)]
    assert counts == [2 * 4 + 1, 2 * 7 + 1]
    ids = torch.arange(40)[None]
    for tokens in (ids, ids[:, :1]):
        mine, expected = model(input_ids=tokens).logits, apart(input_ids=tokens).logits
        torch.testing.assert_close(mine, expected, rtol=0.02, atol=0.02)
    if quantization == "8bit" and has_exact_integers():
        assert torch.equal(mine, expected)
