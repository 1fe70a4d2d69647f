"""The trace of a conversation's experts: the reference's choices, and hooks that leave nothing behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from PIL import Image

from benchmarks.random_models import SMALL, random_model
from engine.chat_engine import ChatEngine
from engine.generating_model import GeneratingModel
from engine.routing_tracer import trace_routing
from models.conversation import Answer, Sampling, Turn
from models.errors import RequestError
from models.loader import load_model
from models.parts.sparse_decoders import SparseDecoder
from models.routing_trace import shares
from tests.paths import GOLDENS
from tests.tiny_model import GREEDY, ask, tiny_model


@pytest.fixture(scope="module")
def engine() -> Iterator[ChatEngine]:
    path = GOLDENS / "moe-llava-stablelm" / "config.yaml"
    with ChatEngine(load_model(path, device="cpu", report=None)) as engine:
        yield engine


def test_the_engine_traces_the_reference_s_choices(engine: ChatEngine) -> None:
    """First choices of the prompt are those recorded; the image is not encoded again, and the hooks are gone."""
    record = json.loads((GOLDENS / "moe-llava-stablelm" / "case.json").read_text())["turns"][0]
    image = Image.open(GOLDENS / "moe-llava-stablelm" / "image.png").convert("RGB")
    turns = [Turn("user", record["user"], (image,))]
    sampling = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=20)
    answer: Answer
    *_, answer = engine.stream(turns, sampling)
    encoded = engine.stats().images_encoded
    trace = engine.routing(turns, answer.text, sampling)
    assert engine.stats().images_encoded == encoded
    length = record["seq_len_after_splice"]
    for layer in trace.layers:
        counts = [round(share * length) for share in shares(layer.first, range(length), layer.num_experts)]
        assert counts == record["routing_first_forward"][str(layer.layer)]["exp_counts_first_choice"]
        assert all(first != second for first, second in zip(layer.first, layer.second, strict=True))
    assert len(trace.tokens(0)) == trace.grid.side**2 == 25
    assert len(trace.images) > length  # the answer, too
    assert engine.stats().images_pinned == 0
    *_, again = engine.stream(turns, sampling)
    assert again.text == answer.text


def test_other_threads_leave_no_trace_and_hooks_are_removed(engine: ChatEngine) -> None:
    model = engine._model
    decoder = model.language_model
    assert isinstance(decoder, SparseDecoder)
    with decoder.record_routing() as found:
        thread = threading.Thread(target=trace_routing, args=(model, [70, 71], [None, None]))
        thread.start()
        thread.join()
        assert found == {}
    assert not any(layer.router._forward_hooks for layer in decoder.sparse_layers.values())


def test_what_can_not_trace_says_so() -> None:
    model = tiny_model()
    for answering in (ChatEngine(model), GeneratingModel(model)):
        assert not answering.info.has_experts
        with pytest.raises(RequestError, match="Tiny has no experts"):
            answering.routing(ask("hi"), "hello", GREEDY)


@pytest.mark.usefixtures("quick")
def test_layers_come_in_the_order_of_the_model_each_with_its_own_choices() -> None:
    model = random_model("sparse_phi", replace(SMALL, layers=5))
    decoder = model.language_model
    assert isinstance(decoder, SparseDecoder)
    assert len(decoder.sparse_layers) > 1
    ids, images = list(range(10, 30)), [None] * 12 + [0] * 8
    trace = trace_routing(model, ids, images)
    assert [layer.layer for layer in trace.layers] == sorted(decoder.sparse_layers)
    assert trace.tokens(0) == list(range(12, 20))
    with decoder.record_routing() as found, torch.inference_mode():
        decoder(input_ids=torch.tensor([ids]))
    for layer in trace.layers:
        best = found[layer.layer].logits.topk(2, dim=-1).indices.view(-1, 2).tolist()
        assert list(zip(layer.first, layer.second, strict=True)) == [tuple(pair) for pair in best]
