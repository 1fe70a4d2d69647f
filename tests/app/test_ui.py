"""What is on the page for which model, and how it is launched by default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from app.ui import ASSETS, ChatPage, build_demo, launch_options
from models.conversation import Sampling
from tests.app.helpers import scene
from tests.fakes import INFO, TASKS, ScriptedModel


def parts(demo: gr.Blocks) -> set[str]:
    return {str(block.elem_id) for block in demo.blocks.values() if block.elem_id}


def test_the_family_decides_what_is_there(tmp_path: Path) -> None:
    full = parts(build_demo(ScriptedModel(), new_scene=scene))
    assert {"mv-boxtool", "mv-toy", "mv-new-scene", "mv-task-6"} <= full
    plain = replace(INFO, is_toy=False, tasks=TASKS[:2])
    demo = build_demo(ScriptedModel(info=plain), examples_dir=tmp_path)
    assert not {"mv-boxtool", "mv-toy", "mv-examples", "mv-task-2"} & parts(demo)
    (new_scene,) = (block for block in demo.blocks.values() if block.elem_id == "mv-new-scene")
    assert not new_scene.visible


def test_settings_begin_with_the_familys_defaults() -> None:
    sampling = Sampling(temperature=0.25, top_p=0.5, max_new_tokens=77, repetition_penalty=1.2, seed=9)
    demo = build_demo(ScriptedModel(info=replace(INFO, sampling=sampling)))
    sliders = [block.value for block in demo.blocks.values() if isinstance(block, gr.Slider)]
    assert sliders == [0.25, 0.5, 77, 1.2]
    assert "9" in [block.value for block in demo.blocks.values() if isinstance(block, gr.Textbox)]


def test_a_model_without_tasks() -> None:
    assert "mv-task-0" not in parts(build_demo(ScriptedModel(info=replace(INFO, tasks=()))))


def test_only_chat_is_public() -> None:
    public = [fn.api_name for fn in build_demo(ScriptedModel()).fns.values() if fn.api_visibility == "public"]
    assert public == ["chat"]


def test_launch_is_private_by_default_and_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda _, **settings: seen.update(settings))
    demo = build_demo(ScriptedModel())
    assert isinstance(demo, ChatPage)
    demo.launch(server_name="0.0.0.0")
    assert seen["server_name"] == "0.0.0.0"
    assert (seen["share"], seen["run_history"], seen["enable_monitoring"]) == (False, False, False)
    assert seen["allowed_paths"] == [str(ASSETS)]
    assert launch_options()["server_name"] == "127.0.0.1"
