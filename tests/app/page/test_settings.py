"""The sidebar, and that one description of a sampling setting is all that page, endpoint and check need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client  # type: ignore[import-untyped]

from app.chat.exchange import WantedExtras
from app.page.bubble_parts import describe_sampling
from app.page.components import build_demo
from app.page.handlers import Handlers
from app.page.page_state import PageState
from app.page.settings import read_settings
from models.config import parse_keys
from models.conversation import Sampling
from models.errors import RequestError
from models.model_info import ModelInfo
from models.sampling_settings import check, setting, settings_of
from tests.app.extras.scripted import DRAWS, EXTENDED_INFO, READS
from tests.app.helpers import Serve
from tests.app.page.sidebar import SETTINGS, page_values
from tests.fakes import INFO, ScriptedModel

pytestmark = pytest.mark.usefixtures("no_stray_event_loops")

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class WiderSampling(Sampling):
    """With a setting that does not exist, described as the others are and nowhere else."""

    made_up: float = setting(
        0.1, low=0, high=1, slider=(0, 0.5, 0.01), label="Made up", help="A floor.", detail="up {:g}"
    )


WIDER_INFO = replace(INFO, sampling=WiderSampling())


def components(info: ModelInfo, kind: type[gr.components.Component]) -> list[Any]:
    """Of the sidebar: those of the endpoint, which nobody sees, explain nothing."""
    blocks = build_demo(ScriptedModel(info=info)).blocks.values()
    return [block for block in blocks if isinstance(block, kind) and getattr(block, "info", None)]


def test_settings_begin_with_the_familys_defaults() -> None:
    sampling = Sampling(temperature=0.25, top_p=0.5, max_new_tokens=77, repetition_penalty=1.2, seed=9)
    info = replace(INFO, sampling=sampling)
    sliders, boxes = components(info, gr.Slider), components(info, gr.Textbox)
    shown = {one.label: getattr(sampling, one.name) for one in settings_of(sampling) if one.slider is not None}
    assert {slider.label: slider.value for slider in sliders} == shown
    assert [box.value for box in boxes] == ["9"]


@pytest.mark.parametrize(("context", "default", "most"), [(700, 200, 700), (5000, 200, 1024), (700, 900, 900)])
def test_no_answer_longer_than_the_context_is_offered(context: int, default: int, most: int) -> None:
    info = replace(INFO, context_tokens=context, sampling=Sampling(max_new_tokens=default))
    (slider,) = (one for one in components(info, gr.Slider) if one.label == "Max new tokens")
    assert (slider.minimum, slider.maximum) == (1, most)


@pytest.mark.parametrize(("info", "names"), [(EXTENDED_INFO, ["mv-ocr", "mv-generate"]), (INFO, [])])
def test_the_page_has_the_switches_where_the_model_has_extras(info: ModelInfo, names: list[str]) -> None:
    assert [switch.elem_id for switch in components(info, gr.Checkbox)] == names


def test_switches() -> None:
    assert read_settings(INFO, SETTINGS)[1] == WantedExtras()
    assert read_settings(EXTENDED_INFO, (*SETTINGS, True, False))[1] == READS
    assert read_settings(EXTENDED_INFO, (*SETTINGS, False, True))[1] == DRAWS


def test_values_of_the_page_as_settings() -> None:
    given = {"temperature": 0, "top_p": 1, "max_new_tokens": 200.0, "repetition_penalty": 1, "seed": " 7 "}
    sampling, _ = read_settings(INFO, page_values(**given))
    assert sampling == Sampling(temperature=0.0, top_p=1.0, max_new_tokens=200, repetition_penalty=1.0, seed=7)
    assert type(sampling.max_new_tokens) is int


@pytest.mark.parametrize("seed", ["a", "-1", "1.5", "²", str(MAX_SEED + 1), "9" * 5000])
def test_a_seed_that_can_not_be_used_is_refused_before_it_is_asked(seed: str) -> None:
    message = f"^The seed must be a whole number from 0 to {MAX_SEED}, or empty for a new one.$"
    with pytest.raises(RequestError, match=message):
        read_settings(INFO, page_values(seed=seed))


@pytest.mark.parametrize(("typed", "seed"), [(f" {MAX_SEED} ", MAX_SEED), ("0", 0), (" ", None)])
def test_seeds(typed: str, seed: int | None) -> None:
    assert read_settings(INFO, page_values(seed=typed))[0].seed == seed


def test_a_new_setting_reaches_the_sidebar_and_an_answer() -> None:
    slider = components(WIDER_INFO, gr.Slider)[-1]
    assert (slider.label, slider.info, slider.value) == ("Made up", "A floor.", 0.1)
    assert (slider.minimum, slider.maximum, slider.step) == (0, 0.5, 0.01)
    model = ScriptedModel(info=WIDER_INFO)
    list(Handlers(model).ask(PageState(), "", {"text": "hi", "files": []}, None, *SETTINGS, 0.25))
    (sampling,) = model.samplings
    assert isinstance(sampling, WiderSampling)
    assert (sampling.made_up, sampling.top_p) == (0.25, 0.9)


def test_a_new_setting_reaches_the_endpoint(serve: Serve) -> None:
    model = ScriptedModel(info=WIDER_INFO)
    client = Client(serve(model), verbose=False)
    endpoint = client.view_api(return_format="dict")["named_endpoints"]["/chat"]
    names = [parameter["parameter_name"] for parameter in endpoint["parameters"]]
    assert names == ["image", "text", "history", *(one.name for one in settings_of(WiderSampling()))]
    client.predict(None, "hi", api_name="/chat")
    client.predict(None, "hi", made_up=0.25, api_name="/chat")
    assert [getattr(sampling, "made_up", None) for sampling in model.samplings] == [0.1, 0.25]


def test_a_new_setting_is_checked_described_and_a_key_of_the_yaml() -> None:
    with pytest.raises(RequestError, match="made_up is 2; it must be a number, at least 0 and at most 1"):
        check(WiderSampling(made_up=2))
    assert "up 0.25" in describe_sampling(WiderSampling(made_up=0.25))
    assert parse_keys(WiderSampling, {"made_up": 0.25}, where="x.yaml") == WiderSampling(made_up=0.25)
