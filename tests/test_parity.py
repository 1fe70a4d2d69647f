"""Ours against recorded runs of the original implementations: tiny random weights in the released file formats, fp32.

`pytest tests/test_parity.py --goldens DIR` runs the same assertions over another folder of cases. A case is a folder
with `case.json`, `expected.safetensors`, `training.json`, pictures, weights, and a `config.yaml` in our vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from app.engine import ChatEngine
from models.conversation import Sampling, Turn
from models.generation import generate
from models.loader import load_model
from models.vision_language_model import VisionLanguageModel
from training.lora import attach_lora
from training.sequences import Batch, Sample, conversation_answers, make_batch

HISTORIES = {"turns": 1.0, "turns_repetition_penalty_1.05": 1.05}


@dataclass(frozen=True)
class Case:
    """A recorded case on disk."""

    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "case.json").read_text())

    @cached_property
    def training(self) -> dict[str, Any]:
        return json.loads((self.folder / "training.json").read_text())

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        return load_file(self.folder / "expected.safetensors")

    def image(self, name: str = "image.png") -> Image.Image:
        return Image.open(self.folder / name).convert("RGB")

    def conversation(self, history: str) -> Iterator[tuple[list[Turn], dict[str, Any]]]:
        """Every recorded turn with the turns before it, answers as the reference gave them."""
        turns: list[Turn] = []
        for index, (question, record) in enumerate(zip(self.record["questions"], self.record[history], strict=True)):
            turns.append(Turn("user", question, (self.image(),) if index == 0 else ()))
            yield list(turns), record
            turns.append(Turn("assistant", record["answer"]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = sorted(path.parent for path in metafunc.config.getoption("--goldens").glob("*/case.json"))
    cases = {folder.name: Case(folder) for folder in folders}
    if "kind" in metafunc.fixturenames:
        recorded = [
            (case, kind) for case in cases.values() for kind in ("batch", *case.training.get("extra_cases", {}))
        ]
        metafunc.parametrize("case, kind", recorded, ids=[f"{c.folder.name}-{k}" for c, k in recorded], scope="module")
    elif "case" in metafunc.fixturenames:
        wanted = metafunc.definition.get_closest_marker("recorded")
        chosen = {name: case for name, case in cases.items() if wanted is None or wanted.args[0] in case.record}
        metafunc.parametrize("case", list(chosen.values()), ids=list(chosen), scope="module")


@pytest.fixture(scope="module")
def model(case: Case) -> VisionLanguageModel:
    return load_model(case.folder / "config.yaml", device="cpu", dtype="float32", report=lambda _: None)


@pytest.fixture(scope="module")
def engine(model: VisionLanguageModel) -> Iterator[ChatEngine]:
    with ChatEngine(model) as engine:
        yield engine


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    difference = (actual - expected).abs().max().item()
    assert difference <= tolerance, f"largest difference {difference:.2e} > {tolerance:.0e}"


def test_pixel_values_and_features(case: Case, model: VisionLanguageModel) -> None:
    pixel_values = model.pixel_values([case.image()])
    assert_close(pixel_values, case.expected["pixel_values"], 1e-6)
    with torch.inference_mode():
        features = model.vision_features(pixel_values)
        assert_close(features, case.expected["vision_features"], 1e-4)
        assert_close(model.connector.prepare(features), case.expected["connector_input"], 1e-4)  # type: ignore[operator]
        assert_close(model.encode_images([case.image()]), case.expected["image_features"], 1e-4)


def test_prompt_embeddings_and_logits(case: Case, model: VisionLanguageModel) -> None:
    embeds, logits = case.expected["inputs_embeds"], case.expected["logits"]
    for index, (turns, _) in enumerate(case.conversation("turns")):
        with torch.inference_mode():
            ours = model.embed_prompt(turns)[None]
            our_logits = model.language_model(inputs_embeds=ours).logits
        if index == 0:
            assert_close(ours, embeds.reshape(ours.shape), 1e-4)
            assert_close(our_logits, logits.reshape(our_logits.shape), 1e-4)
        elif (last := case.expected.get(f"turn{index + 1}_logits_last")) is not None:
            assert_close(our_logits[0, -1], last.flatten(), 1e-4)


@pytest.mark.parametrize("history", HISTORIES)
def test_every_segment_has_the_reference_token_ids(case: Case, model: VisionLanguageModel, history: str) -> None:
    for turns, record in case.conversation(history):
        segments = model.prompt_format.render(turns)
        assert [segment for segment in segments if isinstance(segment, str)] == record["segments"]
        assert [ids for ids in model.tokenize(segments) if isinstance(ids, list)] == record["segment_ids"]


@pytest.mark.parametrize("history", HISTORIES)
def test_greedy_answers_through_generate(case: Case, model: VisionLanguageModel, history: str) -> None:
    for turns, record in case.conversation(history):
        answer = generate(model, [turns], greedy(case, HISTORIES[history]))[0]
        # The reference's ids begin with one BOS that `generate` of transformers 4.30 puts in front.
        assert answer.ids == record["output_ids"][1:]
        assert answer.text == record["answer"]


@pytest.mark.parametrize("history", HISTORIES)
def test_greedy_answers_through_the_engine(
    case: Case, model: VisionLanguageModel, engine: ChatEngine, history: str
) -> None:
    for turns, record in case.conversation(history):
        *_, last = engine.stream(turns, greedy(case, HISTORIES[history]))
        assert last.text == record["answer"]
        assert last.num_new_tokens == len(record["output_ids"]) - 1
        assert last.finish_reason == (
            "stop" if record["output_ids"][-1] in model.eos_token_ids or "###" in record["raw_decoded"] else "length"
        )


@pytest.mark.recorded("stop_test")
def test_generation_stops_where_the_reference_stops(case: Case, model: VisionLanguageModel) -> None:
    """Recorded with other stop ids than the family's own; ours must pass through the same ids up to there."""
    stop_test = case.record["stop_test"]
    turns, _ = next(case.conversation("turns"))
    ids = generate(model, [turns], greedy(case, 1.0))[0].ids
    stops = [tuple(stop) for stop in stop_test["stop_words_ids"]]
    end = next(
        n for n in range(1, len(ids) + 1) if any(tuple(ids[max(0, n - len(stop)) : n]) == stop for stop in stops)
    )
    assert ids[:end] == stop_test["turn1"]["output_ids"][1:]
    assert model.prompt_format.finish(model.tokenizer.decode(ids[:end])) == stop_test["turn1"]["answer"]


@pytest.mark.recorded("eval_generate")
def test_batched_evaluation(case: Case, model: VisionLanguageModel) -> None:
    record = case.record["eval_generate"]
    conversations = [
        [Turn("user", question, (case.image(name),))]
        for question, name in zip(record["questions"], record["images"], strict=True)
    ]
    sampling = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=record["max_new_tokens"])
    for answer, expected in zip(generate(model, conversations, sampling), record["answers"], strict=True):
        text = model.tokenizer.decode(answer.ids)
        assert text.split("</s>")[0].replace("<s>", "").split("[/INST]")[-1].strip() == expected


def greedy(case: Case, penalty: float) -> Sampling:
    tokens = case.record["generation"]["max_new_tokens"]
    return Sampling(temperature=0, repetition_penalty=penalty, max_new_tokens=tokens)


def training_samples(case: Case, kind: str) -> tuple[list[Sample], int]:
    """The recorded training batch of a kind and its limit on text tokens."""
    settings = case.record["config"]["model"]
    batch = case.training["batch"]
    template = settings["prompt_template"] if settings.get("chat_template") else "{}"
    images = [case.image("image.png"), case.image("image2.png")]
    end, limit = settings["end_sym"], settings["max_txt_len"]
    if kind == "stage1":
        record = batch["stage1"]
        answers: list[tuple[tuple[str, bool], ...]] = [((text + record["end_sym"], True),) for text in record["answer"]]
        limit = record["max_txt_len"]
        prompts = ["<ImageHere>"] * len(answers)
    elif kind == "conversation":
        conv = batch["conv"]
        questions = [text.split(conv["connect_sym"]) for text in conv["conv_q"]]
        replies = [text.split(conv["connect_sym"]) for text in conv["conv_a"]]
        prompts = [template.format(first) for first, *_ in questions]
        answers = [
            conversation_answers(q, a, end=end, template=template) for q, a in zip(questions, replies, strict=True)
        ]
    else:
        record = batch["text_only"] if kind == "text_only" else batch
        prompts = [template.format(text) for text in record["instruction_input"]]
        answers = [((text + end, True),) for text in record["answer"]]
    pictures: list[Image.Image | None] = [None] * len(answers) if kind == "text_only" else list(images)
    samples = [Sample(p, a, image) for p, a, image in zip(prompts, answers, pictures, strict=True)]
    return samples, limit


def test_training_loss_and_gradients(case: Case, kind: str) -> None:
    record = case.training if kind == "batch" else case.training["extra_cases"][kind]
    model = load_model(
        case.folder / "config.yaml", device="cpu", dtype="float32", report=lambda _: None, keep_lora=True
    )
    # Named as in the released files; dropout off, as in the recording.
    trainable = {}
    if model.lora is not None:
        prefix = "llama_model.base_model.model."
        trainable = {f"{prefix}{name}.weight": p for name, p in attach_lora(model, dropout=0.0).items()}
    projection = model.connector.get_submodule("projection").requires_grad_(True)
    trainable |= {f"llama_proj.{name}": parameter for name, parameter in projection.named_parameters()}
    assert sorted(trainable) == sorted(record["trainable"])

    samples, limit = training_samples(case, kind)
    batch: Batch = make_batch(model, samples, max_text_tokens=limit)
    loss = model(**vars(batch)).loss
    loss.backward()
    assert loss.item() == pytest.approx(record["loss"], abs=1e-5)
    for name, parameter in trainable.items():
        norm = 0.0 if parameter.grad is None else parameter.grad.norm().item()
        assert norm == pytest.approx(record["grad_l2"][name], rel=1e-4, abs=1e-7), name
