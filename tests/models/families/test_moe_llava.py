"""MoE-LLaVA against slow loops over tokens and experts, and what sparse layers promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.chat_engine import ChatEngine
from engine.generate import generate
from models.conversation import Sampling, Turn
from models.families.moe_llava import image_processor_of
from models.loader import load_model
from models.parts.moe_routing import Routing, expert_capacity, gumbel_noise, route
from models.parts.sparse_decoders import SparseDecoder
from models.quantized.eight_bits import EightBitLinear
from models.quantized.four_bits import FourBitLinear
from models.vision_language_model import VisionLanguageModel
from tests.models.families.sparse_reference import reference_logits, write_openchat, write_qwen
from tests.paths import GOLDENS
from tests.recorded_case import Case
from tests.sparse_steps import combine_weights

PHI, STABLELM, SIGLIP = (GOLDENS / f"moe-llava-{name}" for name in ("phi2", "stablelm", "stablelm-384"))
SPARSE = {"moe_layers_idx": [0, 2], "num_experts": [4, 4], "top_k_experts": 2, "eval_capacity_factor": 2.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "sparse": SPARSE,
    "other layers": {**SPARSE, "moe_layers_idx": [1, 2, 3], "num_experts": [4, 3, 2]},
    "first layer alone": {**SPARSE, "moe_layers_idx": [0], "num_experts": [8]},
    "with a dense branch": {**SPARSE, "use_residual": True},
    "experts that fill up": {**SPARSE, "eval_capacity_factor": 0.6, "min_capacity": 0},
    "a least capacity": {**SPARSE, "eval_capacity_factor": 0.1, "min_capacity": 5},
    "dense": {"moe_layers_idx": [], "num_experts": []},
}
GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=12)


def picture() -> Image.Image:
    return Image.effect_noise((40, 28), 80).convert("RGB")


def load(folder: Path, **options: Any) -> VisionLanguageModel:
    return load_model(folder / "config.yaml", device="cpu", dtype="float32", report=None, **options)


def sparse_layers(model: VisionLanguageModel) -> dict[int, Any]:
    assert isinstance(model.language_model, SparseDecoder)
    return dict(model.language_model.sparse_layers)


def question(case: Path, text: str = "What is it?") -> list[Turn]:
    return [Turn("user", text, (Image.open(case / "image.png").convert("RGB"),))]


@pytest.mark.parametrize("variant", VARIANTS)
def test_qwen_equals_slow_loops(tmp_path: Path, variant: str) -> None:
    moe = VARIANTS[variant]
    tensors = write_qwen(tmp_path / "qwen", moe)
    model = load(tmp_path)
    turns = [Turn("user", "is the image in it?", (picture(),))]
    with torch.inference_mode():
        embeds = model.embed_prompt(turns)
        logits = model.language_model(inputs_embeds=embeds[None]).logits[0]
    expected = reference_logits(tensors, embeds, moe, factor=moe.get("eval_capacity_factor", 2.0))
    assert logits.shape[1] == len(model.tokenizer) < expected.shape[1]
    assert logits.abs().max() > 5
    torch.testing.assert_close(logits, expected[:, : logits.shape[1]], atol=2e-4, rtol=1e-4)


def test_qwen_through_the_engine(tmp_path: Path) -> None:
    write_qwen(tmp_path / "qwen", SPARSE)
    model = load(tmp_path)
    turns = [Turn("user", "is the image in it?", (picture(),))]
    answer = generate(model, [turns], GREEDY)[0]
    with ChatEngine(model) as engine:
        *_, last = engine.stream(turns, GREEDY)
    assert (last.text, last.num_new_tokens) == (answer.text, len(answer.ids))


def test_openchat_through_generate_and_the_engine(tmp_path: Path) -> None:
    """Two turns: one BOS in all, one id for the end of a turn, and sentencepiece's prefix space after it."""
    write_openchat(tmp_path / "openchat", next((GOLDENS / "mgm-7b").rglob("tokenizer.model")))
    model = load(tmp_path)
    end = model.tokenizer.eos_token_id
    assert len(model.tokenizer) == end + 2
    turns = [Turn("user", "what is it?", (picture(),)), Turn("assistant", "it is"), Turn("user", "why?")]
    pieces = [ids for ids in model.tokenize(model.prompt_format.render(turns)) if isinstance(ids, list)]
    ids = [token for piece in pieces for token in piece]
    assert ids.count(model.tokenizer.bos_token_id) == 1 == ids.count(end)
    after = ids[ids.index(end) + 1 :]
    assert after == model.tokenizer.encode("USER: why? ASSISTANT:")
    assert "<|end_of_turn|>" not in model.prompt_format.neutralise("a<|end_of_turn|>b")
    answer = generate(model, [turns], GREEDY)[0]
    with ChatEngine(model) as engine:
        *_, last = engine.stream(turns, GREEDY)
    assert (last.text, last.num_new_tokens) == (answer.text, len(answer.ids))


@pytest.mark.parametrize("folder", [PHI, STABLELM, SIGLIP], ids=lambda folder: folder.name)
def test_routing_of_a_prompt_is_the_recorded_one(folder: Path) -> None:
    case, model = Case(folder), load(folder)
    routings: dict[int, Routing] = {}
    for index, layer in sparse_layers(model).items():
        layer.router.register_forward_hook(lambda _m, _a, routing, n=index: routings.__setitem__(n, routing))
    with torch.inference_mode():
        embeds = model.embed_prompt(next(case.conversation("turns")).turns)
        model.language_model(inputs_embeds=embeds[None])
    assert list(routings) == case.record["model_config"]["moe"]["moe_layers_idx"]
    for index, routing in routings.items():
        torch.testing.assert_close(routing.logits, case.expected[f"moe.layer{index}.gate_logits"], atol=1e-4, rtol=0)
        expected = case.expected[f"moe.layer{index}.combine_weights"]
        torch.testing.assert_close(combine_weights(routing), expected, atol=1e-5, rtol=0)


def test_unpadded_pixel_values_are_those_of_the_original_web_demo() -> None:
    for folder in (PHI, STABLELM, SIGLIP):
        case = Case(folder)
        model = load(folder)
        process = image_processor_of(model.vision_tower, "square")  # type: ignore[arg-type]
        torch.testing.assert_close(process(case.image())[None], case.expected["pixel_values_nopad"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("folder", [PHI, STABLELM], ids=lambda folder: folder.name)
def test_a_decode_step_reads_only_the_experts_it_uses(folder: Path) -> None:
    """Everything else is overwritten with NaN, which would reach the logits if it took part in any product."""
    model = load(folder)
    language_model = model.language_model
    with torch.inference_mode():
        embeds = model.embed_prompt(question(folder))[None]
        past = language_model(inputs_embeds=embeds[:, :-1], use_cache=True).past_key_values
        chosen: dict[int, set[int]] = {}
        for index, layer in sparse_layers(model).items():
            layer.router.register_forward_hook(
                lambda _m, _a, routing, n=index: chosen.__setitem__(n, set(routing.experts.flatten().tolist()))
            )
        expected = language_model(inputs_embeds=embeds[:, -1:], past_key_values=past, use_cache=True).logits
        past.crop(-1)
        for index, layer in sparse_layers(model).items():
            assert len(chosen[index]) == 2
            for parameter in layer.experts.parameters():
                for expert in set(range(4)) - chosen[index]:
                    parameter[expert] = torch.nan
        step = language_model(inputs_embeds=embeds[:, -1:], past_key_values=past, use_cache=True).logits
        assert torch.equal(step, expected)
        whole = language_model(inputs_embeds=embeds).logits  # a prompt uses them all, so the poison is real
        assert whole.isnan().any()


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("folder", [PHI, STABLELM], ids=lambda folder: folder.name)
def test_every_experts_implementation_gives_the_same(folder: Path, implementation: str) -> None:
    case, model = Case(folder), load(folder)
    assert model.language_model.config._experts_implementation == "grouped_mm"
    model.language_model.set_experts_implementation(implementation)
    assert model.language_model.config._experts_implementation == implementation
    with torch.inference_mode():
        embeds = model.embed_prompt(next(case.conversation("turns")).turns)
        logits = model.language_model(inputs_embeds=embeds[None]).logits
    torch.testing.assert_close(logits, case.expected["logits"], atol=1e-4, rtol=0)


def test_the_router_stays_in_32_bits() -> None:
    model = load_model(PHI / "config.yaml", device="cpu", dtype="bfloat16", report=None)
    assert {layer.router.weight.dtype for layer in sparse_layers(model).values()} == {torch.float32}
    assert model.language_model.dtype == torch.bfloat16
    answers = [generate(model, [question(PHI)], GREEDY)[0].ids for _ in range(2)]
    assert answers[0] == answers[1]


def test_the_second_expert_can_be_sampled_as_in_the_original() -> None:
    model = load(PHI, overrides=["samples_second_expert=true"])
    with torch.inference_mode():
        embeds = model.embed_prompt(question(PHI))[None]
        runs = [model.language_model(inputs_embeds=embeds).logits for _ in range(2)]
    assert not torch.equal(*runs)


def test_sampling_the_second_expert_follows_its_probability() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 2.5, 0.5, 0.0]).repeat(40_000, 1)
    routing = route(logits, noise=gumbel_noise(logits))
    assert set(routing.experts[:, 0].tolist()) == {1}
    share = routing.experts[:, 1].bincount(minlength=4) / len(logits)
    expected = logits[0].softmax(0).index_fill(0, torch.tensor(1), 0)
    torch.testing.assert_close(share, expected / expected.sum(), atol=0.01, rtol=0)
    kept = logits[0].softmax(0)[routing.experts]
    torch.testing.assert_close(routing.weights, kept / kept.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("tokens", "experts", "factor", "minimum", "capacity"),
    [(114, 4, 2.0, 0, None), (1, 4, 2.0, 0, None), (296, 4, 1.5, 0, 222), (7, 4, 1.0, 0, 4), (7, 4, 0.1, 4, 4),
     (3, 4, 0.1, 4, None), (9, 2, 0.5, 0, 5), (1, 4, 1.0, 4, None)],
)  # fmt: skip
def test_capacity(tokens: int, experts: int, factor: float, minimum: int, capacity: int | None) -> None:
    assert expert_capacity(tokens, experts, factor=factor, minimum=minimum) == capacity


def test_a_token_whose_experts_are_full_gets_nothing() -> None:
    logits = torch.tensor([[3.0, 2.0, 0.0]] * 3 + [[0.0, 2.0, 3.0]])
    routing = route(logits, capacity=2)
    # Expert 0 is full after two first choices. Second choices of 1 come in token order: tokens 0 and 1 find a place.
    assert (routing.weights > 0).tolist() == [[True, True], [True, True], [False, False], [True, False]]
    assert routing.weights.sum(1).tolist() == pytest.approx([1, 1, 0, 1])


def test_balance_loss_is_one_when_even_and_grows_with_use_of_one_expert() -> None:
    even = torch.eye(4).repeat(5, 1) * 20
    assert route(even).balance_loss().item() == pytest.approx(1, abs=1e-5)
    one = torch.zeros(20, 4)
    one[:, 2] = 20
    assert route(one).balance_loss().item() == pytest.approx(4, abs=1e-5)


def test_answers_do_not_depend_on_who_else_is_served() -> None:
    """Two conversations in one batch, the shorter padded: with the released factor nobody loses an expert."""
    model = load(STABLELM)
    short, long = question(STABLELM), question(STABLELM, "Is the largest object red? Tell me more about all of it.")
    together = generate(model, [short, long], GREEDY)
    assert [answer.ids for answer in together] == [generate(model, [turns], GREEDY)[0].ids for turns in (short, long)]


@pytest.mark.parametrize(("quantization", "tolerance"), [("8bit", 0.1), ("4bit", 0.7)])
@pytest.mark.parametrize("folder", [PHI, STABLELM], ids=lambda folder: folder.name)
def test_quantization_reaches_the_experts(folder: Path, quantization: str, tolerance: float) -> None:
    """As the other families' tests: random weights have no redundancy, so the error is larger than in a trained one."""
    full, model = load(folder), load(folder, quantization=quantization)
    kind = EightBitLinear if quantization == "8bit" else FourBitLinear
    for layer in sparse_layers(model).values():
        linear = [m for m in layer.linear_experts.modules() if isinstance(m, torch.nn.Linear | kind)]
        assert len(linear) == 4 * 2  # in StableLM gate and up are one
        assert all(isinstance(module, kind) for module in linear)
        assert type(layer.router.weight) is torch.nn.Parameter

    def logits_of(some: VisionLanguageModel) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = some.language_model(inputs_embeds=some.embed_prompt(question(folder))[None]).logits
        return logits

    expected = logits_of(full)
    error = ((logits_of(model) - expected).float().pow(2).mean() / expected.float().var()).sqrt().item()
    assert 0 < error < tolerance
    with ChatEngine(model) as engine:
        *_, last = engine.stream(question(folder), Sampling(temperature=0, max_new_tokens=4))
    assert last.num_new_tokens == 4
