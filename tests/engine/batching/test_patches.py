"""What is replaced on the library's objects: nothing that other threads share, and nothing that is not there."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.batching.patches import replace_method
from engine.generate import generate
from models.vision_language_model import VisionLanguageModel
from tests.engine.helpers import language_model, last, start
from tests.tiny_model import GREEDY, ask, picture

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("step", ["prefill", "decode"])
def test_generate_in_the_middle_of_a_step_reads_a_config_that_nobody_changed(
    model: VisionLanguageModel, step: str
) -> None:
    """Given `is_causal`, transformers would have it in the shared config until the step ends, for both threads."""
    chat = ask("What is it?", picture(1))
    expected = generate(model, [chat], GREEDY)[0].text
    is_inside, may_go_on = threading.Event(), threading.Event()
    steps: list[int] = []

    def stop_inside(_: object, __: object) -> None:
        if threading.current_thread().name == "generation loop":
            steps.append(1)
            if len(steps) == (1 if step == "prefill" else 2):
                is_inside.set()
                assert may_go_on.wait(60)

    hook = language_model(model).model.layers[0].register_forward_pre_hook(stop_inside)
    # Without memory for a contiguous copy, decode steps are the library's as well.
    with start(model, kv_bytes=400_000) as engine, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(last, engine, chat)
        try:
            assert is_inside.wait(60)
            beside = generate(model, [chat], GREEDY)[0].text
        finally:
            may_go_on.set()
        assert (beside, answer.result().text) == (expected, expected)
    hook.remove()
    assert not hasattr(model.language_model.config, "is_causal")


def test_a_method_that_is_not_there_can_not_be_replaced() -> None:
    with pytest.raises(AttributeError, match="gone"):
        replace_method(object(), "gone", print)
