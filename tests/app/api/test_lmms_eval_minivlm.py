"""The plugin for lmms-eval, with stand-ins for the harness (0.7.3) and for a task of four pictures."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from models.conversation import Turn
from models.grounding import Box, format_box, intersection_over_union
from tests.app.api.serving import NAME, serve_api
from tests.fakes import INFO, ScriptedModel
from tests.paths import ROOT

FOLDER = ROOT / "contrib" / "lmms_eval_minivlm"
BOXES = [Box(0.1, 0.2, 0.5, 0.6), Box(0, 0, 1, 1), Box(0.25, 0.5, 0.75, 0.8), Box(0.6, 0.1, 0.9, 0.3)]
PHRASES = ["red circle", "everything", "a dog", "the left one"]
ASKED = (
    "… All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of "
)
ASKED += "the region this sentence describes: "
TASKS = ("refcoco_bbox_rec_val", "refcocog_grounding_test", "gqa", "mmbench_en_dev")
HARNESS_READS = r"\[\s*(-?\d+(?:\.\d+)?),\s*(-?\d+(?:\.\d+)?),\s*(-?\d+(?:\.\d+)?),\s*(-?\d+(?:\.\d+)?)\s*\]"


@dataclass(frozen=True)
class Manifest:
    """As `lmms_eval.models.registry_v2.ModelManifest`."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


class Lmms:
    """As `lmms_eval.api.model.lmms`."""

    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


@dataclass(frozen=True)
class Instance:
    """As `lmms_eval.api.instance.Instance`, of which `args` alone is read."""

    args: tuple[Any, ...]


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    contents: dict[str, dict[str, Any]] = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": Lmms},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "lmms_eval_minivlm", raising=False)
    yield importlib.import_module("lmms_eval_minivlm")
    sys.modules.pop("lmms_eval_minivlm", None)


@pytest.fixture
def model() -> ScriptedModel:
    """Knows where the phrases are."""

    def where(turns: Any) -> str:
        last: Turn = turns[-1]
        found = next((index for index, phrase in enumerate(PHRASES) if phrase in last.text), None)
        return "yes" if found is None or "[refer]" not in last.text else format_box(BOXES[found])

    return ScriptedModel(default=where)


def requests(task: str, questions: list[str], **settings: Any) -> list[Instance]:
    def visuals(doc: dict[str, Any]) -> list[Image.Image]:
        return [doc["image"]]

    return [Instance((text, settings, visuals, index, task, "val")) for index, text in enumerate(questions)]


def docs() -> list[dict[str, Any]]:
    return [{"image": Image.new("RGB", (100, 50), (index * 60, 0, 0))} for index in range(4)]


def test_a_task_of_four_pictures(
    plugin: ModuleType, model: ScriptedModel, no_stray_event_loops: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_api(model) as api:
        evaluated = plugin.MiniVLM(base_url=f"{api.url}v1", device="cuda:0", batch_size="1")
        evaluated.task_dict = {task: {"val": docs()} for task in TASKS}
        asked = [ASKED + phrase for phrase in PHRASES]
        found = evaluated.generate_until(requests("refcoco_bbox_rec_val", asked, until=["ASSISTANT:"]))
        assert {turns[-1].text for turns in model.seen} == {f"[refer] {phrase}" for phrase in PHRASES}
        assert all(sampling.temperature == 0 for sampling in model.samplings)
        for text, box in zip(found, BOXES, strict=True):
            read = re.fullmatch(
                r"\[\s*([\d.]+),\s*([\d.]+),\s*([\d.]+),\s*([\d.]+)\s*\]", text
            )  # the harness's own form
            assert read is not None, text
            assert intersection_over_union(Box(*map(float, read.groups())), box) > 0.9

        quoted = ['Locate every object that matches the description "a dog", "it" in the image. Report bbox …']
        (found_one,) = evaluated.generate_until(requests("refcocog_grounding_test", quoted))
        assert found_one == '[{"bbox_2d": [25, 25, 75, 40]}]'

        short = ["Is it red?\nAnswer the question using a single word or phrase."]
        assert evaluated.generate_until(requests("gqa", short, max_new_tokens=16)) == ["yes"]
        assert model.last_question() == (
            "[vqa] Based on the image, respond to this question with a short answer: Is it red?"
        )
        assert model.samplings[-1].max_new_tokens == 16
        evaluated.generate_until(requests("mmbench_en_dev", ["<image> Which? A. B."]))
        assert model.last_question() == "Which? A. B."

        with pytest.raises(ValueError, match=f"no model 'other'; it has {NAME}"):
            plugin.MiniVLM(base_url=f"{api.url}v1", model="other")
        with pytest.raises(RuntimeError, match=r"answered 400: .*max_completion_tokens"):
            evaluated.generate_until(requests("gqa", ["x"], max_new_tokens=-1))


def test_a_model_without_boxes_gets_the_harnesss_words(
    plugin: ModuleType, model: ScriptedModel, no_stray_event_loops: None
) -> None:
    model.info = type(INFO)(name="plain", family="x", tasks=())
    with serve_api(model) as api:
        evaluated = plugin.MiniVLM(base_url=f"{api.url}v1")
        evaluated.task_dict = {"refcoco_bbox_rec_val": {"val": docs()}}
        evaluated.generate_until(requests("refcoco_bbox_rec_val", [ASKED + "a dog"]))
    assert model.last_question() == ASKED + "a dog"


def test_the_entry_point_is_what_the_harness_loads(plugin: ModuleType) -> None:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["lmms_eval.models"]["minivlm"].partition(":")
    manifest = getattr(plugin, name)
    assert (module, manifest.model_id) == ("lmms_eval_minivlm", "minivlm")
    assert manifest.simple_class_path == f"{module}.{plugin.MiniVLM.__name__}"
    assert plugin.MiniVLM.is_simple
