"""Ours against recorded runs of the original implementations: tiny random weights in the released file formats, fp32.

`pytest tests/test_parity.py --goldens DIR` runs the same assertions over another folder of cases. A case is a folder
with `case.json`, `expected.safetensors`, `training.json`, pictures, weights, and a `config.yaml` in our vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from engine.chat_engine import ChatEngine
from engine.generate import generate
from models.conversation import Sampling, Turn
from models.loader import load_model
from models.parts.dual_vision import DualFeatures, DualVisionTower
from models.prompt import PromptFormat
from models.vision_language_model import VisionLanguageModel
from tests.mgm_steps import check_mgm_step
from tests.recorded_case import Case, RecordedTurn
from tests.sparse_steps import check_sparse_step
from training.stages.lora import attach_lora


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every case of the folder, with its recorded conversations or training steps where a test asks for them."""
    cases = [Case(path.parent) for path in sorted(metafunc.config.getoption("--goldens").glob("*/case.json"))]
    if "case" not in metafunc.fixturenames:
        return
    if (wanted := metafunc.definition.get_closest_marker("recorded")) is not None:
        cases = [case for case in cases if wanted.args[0] in case.record]
    for name, values in (("history", Case.histories), ("kind", Case.steps)):
        if name in metafunc.fixturenames:
            pairs = [(case, value) for case in cases for value in values(case)]
            ids = [f"{case.folder.name}-{value}" for case, value in pairs]
            metafunc.parametrize(f"case, {name}", pairs, ids=ids, scope="module")
            return
    metafunc.parametrize("case", cases, ids=[case.folder.name for case in cases], scope="module")


@pytest.fixture(scope="module")
def model(case: Case) -> VisionLanguageModel:
    return load_model(case.folder / "config.yaml", device="cpu", dtype="float32", report=None)


@pytest.fixture(scope="module")
def engine(model: VisionLanguageModel) -> Iterator[ChatEngine]:
    with ChatEngine(model) as engine:
        yield engine


def assert_close(actual: Tensor, expected: Tensor | None, tolerance: float) -> None:
    assert expected is not None
    assert actual.shape == expected.shape
    difference = (actual - expected).abs().max().item()
    assert difference <= tolerance, f"largest difference {difference:.2e} > {tolerance:.0e}"


def greedy(turn: RecordedTurn) -> Sampling:
    return Sampling(temperature=0, repetition_penalty=turn.penalty, max_new_tokens=turn.max_new_tokens)


def test_pixel_values_and_features(case: Case, model: VisionLanguageModel) -> None:
    pixel_values = model.pixel_values([case.image()])
    assert_close(pixel_values, case.tensor("pixel_values_high", "pixel_values"), 1e-6)
    with torch.inference_mode():
        features = model.vision_features(pixel_values)
        if isinstance(features, DualFeatures):
            assert isinstance(model.vision_tower, DualVisionTower)
            low_views = model.vision_tower.low_views(pixel_values)
            assert_close(low_views.reshape(case.expected["pixel_values"].shape), case.tensor("pixel_values"), 1e-6)
            assert_close(features.high, case.tensor("vision_features_high"), 1e-4)
            low = features.low.reshape(case.expected["vision_features"].shape)
        else:
            low = features
        assert_close(low, case.tensor("vision_features"), 1e-4)
        if not case.is_moe:  # there it is the features themselves
            connector_input = model.connector.prepare(features)  # type: ignore[operator]
            assert_close(connector_input, case.tensor("connector_input", "qformer_output"), 1e-4)
        assert_close(model.encode_images([case.image()]), case.tensor("image_features"), 1e-4)


def test_prompt_embeddings_and_logits(case: Case, model: VisionLanguageModel) -> None:
    turns = next(case.conversation("turns")).turns
    with torch.inference_mode():
        embeds = model.embed_prompt(turns)[None]
        logits = model.language_model(inputs_embeds=embeds).logits
    expected = case.tensor("inputs_embeds_times_sqrt_hidden", "inputs_embeds")
    assert expected is not None
    assert_close(embeds[0], expected.flatten(0, -2), 1e-4)
    assert_close(logits[0], case.expected["logits"].flatten(0, -2), 1e-4)


def test_logits_of_the_second_turn(case: Case, history: str, model: VisionLanguageModel) -> None:
    name = "turn2_kept_logits_last" if "kept" in history else "turn2_logits_last"
    turns = max((turn.turns for turn in case.conversation(history)), key=len)
    with torch.inference_mode():
        logits = model.language_model(inputs_embeds=model.embed_prompt(turns)[None]).logits
    if len(turns) == 3 and history != "turns_repetition_penalty_1.05":  # other answers, other logits
        assert_close(logits[0, -1], case.expected[name].flatten(), 1e-4)


def test_every_segment_has_the_reference_token_ids(case: Case, history: str, model: VisionLanguageModel) -> None:
    for turn in case.conversation(history):
        segments = model.prompt_format.render(turn.turns)
        assert [segment for segment in segments if isinstance(segment, str)] == turn.segments
        assert [ids for ids in model.tokenize(segments) if isinstance(ids, list)] == turn.segment_ids


def test_greedy_answers_through_generate(case: Case, history: str, model: VisionLanguageModel) -> None:
    for turn in case.conversation(history):
        answer = generate(model, [turn.turns], greedy(turn))[0]
        assert answer.ids == turn.ids
        assert turn.text is None or answer.text == turn.text


def test_greedy_answers_through_the_engine(
    case: Case, history: str, model: VisionLanguageModel, engine: ChatEngine
) -> None:
    for turn in case.conversation(history):
        *_, last = engine.stream(turn.turns, greedy(turn))
        raw = model.tokenizer.decode(turn.ids)
        assert last.text == model.prompt_format.finish(raw)
        assert turn.text is None or last.text == turn.text
        assert last.num_new_tokens == len(turn.ids)
        has_ended = turn.ids[-1] in model.eos_token_ids or model.prompt_format.stopped(raw)
        assert last.finish_reason == ("stop" if has_ended else "length")


@pytest.mark.recorded("stop_test")
def test_generation_stops_where_the_reference_stops(case: Case, model: VisionLanguageModel) -> None:
    """Recorded with other stop ids than the family's own; ours must pass through the same ids up to there."""
    record, first = case.record["stop_test"], next(case.conversation("turns"))
    ids = generate(model, [first.turns], greedy(first))[0].ids
    stops = [tuple(stop) for stop in record["stop_words_ids"]]
    end = next(
        n for n in range(1, len(ids) + 1) if any(tuple(ids[max(0, n - len(stop)) : n]) == stop for stop in stops)
    )
    assert ids[:end] == record["turn1"]["output_ids"][1:]
    assert model.prompt_format.finish(model.tokenizer.decode(ids[:end])) == record["turn1"]["answer"]


@pytest.mark.recorded("eval_generate")
def test_batched_evaluation(case: Case, model: VisionLanguageModel) -> None:
    record = case.record["eval_generate"]
    conversations = [
        [Turn("user", question, (case.image(name),))]
        for question, name in zip(record["questions"], record["images"], strict=True)
    ]
    sampling = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=record["max_new_tokens"])
    for answer, expected in zip(generate(model, conversations, sampling), record["answers"], strict=True):
        assert evaluated(model.tokenizer.decode(answer.ids)) == expected


@pytest.mark.recorded("evaluation_template")
def test_batched_evaluation_with_its_own_template(
    case: Case, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TinyGPT-V's evaluation scripts: another prompt than the chat's, and only `<|endoftext|>` ends an answer."""
    record = case.record["evaluation_template"]
    template = PromptFormat(user_prefix="###Human: ", assistant_prefix="###Assistant: ")
    monkeypatch.setattr(model, "prompt_format", template)
    monkeypatch.setattr(model, "eos_token_ids", model.penalised_ids)
    question = record["prompt"].split("</Img> ")[1].removesuffix("###Assistant: ")
    # The recording does not say what the second prompt of its batch was; a longer one makes the first need padding.
    conversations = [[Turn("user", text, (case.image(),))] for text in (question, f"{question}, and the background")]
    segments = model.tokenize(template.render(conversations[0]))
    assert [ids for ids in segments if isinstance(ids, list)] == record["segment_ids"]
    with torch.inference_mode():
        logits = model.language_model(inputs_embeds=model.embed_prompt(conversations[0])[None]).logits
    assert_close(logits[0, -1], case.expected["eval_template_logits_last"].flatten(), 1e-4)
    sampling = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=16)  # as recorded
    answer = generate(model, conversations, sampling)[0]
    assert evaluated(model.tokenizer.decode(answer.ids)) == record["answers_from_model_generate"][0]


def evaluated(text: str) -> str:
    """What the original evaluation keeps of a decoded answer (`MiniGPTBase.generate`)."""
    return text.split("</s>")[0].replace("<s>", "").split("[/INST]")[-1].strip()


def test_training_loss_and_gradients(case: Case, kind: str) -> None:
    model = load_model(case.folder / "config.yaml", device="cpu", dtype="float32", report=None, keep_lora=True)
    if case.is_moe:
        check_sparse_step(case, kind, model)
        return
    if case.is_mgm:
        check_mgm_step(case, kind, model)
        return
    step, trainable = case.step(kind), released_names(model)
    assert trainable.keys() == step.gradient_norms.keys()
    for parameters in trainable.values():
        for parameter in parameters:
            parameter.requires_grad_(True)
    loss = model(**vars(step.make_batch(model))).loss
    loss.backward()
    assert loss.item() == pytest.approx(step.loss, abs=1e-5)
    for name, parameters in trainable.items():
        squares = [0.0 if p.grad is None else p.grad.square().sum().item() for p in parameters]
        assert sum(squares) ** 0.5 == pytest.approx(step.gradient_norms[name], rel=1e-4, abs=1e-7), name


def released_names(model: VisionLanguageModel) -> dict[str, list[nn.Parameter]]:
    """What the family trains, by released name; a released tensor that is several of ours lists them all."""
    prefix = "llama_model.base_model.model."
    trainable: dict[str, list[nn.Parameter]] = {}
    adapters = attach_lora(model, dropout=0.0) if model.lora is not None else {}
    for name, parameter in adapters.items():
        fused = name
        if model.info.family == "tinygpt_v":  # one A for q, k, v, and B cut into three
            fused = next(
                (name.replace(p, "query_key_value") for p in ("q_proj", "k_proj", "v_proj") if p in name), name
            )
        known = trainable.setdefault(f"{prefix}{fused}.weight", [])
        if not any(parameter is other for other in known):
            known.append(parameter)
    if model.info.family == "tinygpt_v":
        for name, parameter in model.language_model.named_parameters():
            if name.endswith("norm.weight"):
                trainable[prefix + name] = [parameter]
    projection = model.connector.get_submodule("projection")
    layers = list(projection) if isinstance(projection, nn.Sequential) else [projection]
    for index, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            trainable[f"llama_proj{index + 1 if index else ''}.{name}"] = [parameter]
    return trainable
