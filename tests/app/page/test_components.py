"""What is on the page for which model, and how it is launched by default."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from app.page.components import ASSETS, MAX_STREAMS, ChatPage, build_demo, launch_options
from tests.app.helpers import scene
from tests.fakes import INFO, TASKS, ScriptedModel

pytestmark = pytest.mark.usefixtures("no_stray_event_loops")


def parts(demo: gr.Blocks) -> set[str]:
    ids = {str(block.elem_id): block for block in demo.blocks.values() if block.elem_id}
    chips = ids["mv-task-chips"]
    assert isinstance(chips, gr.HTML)
    return ids.keys() | set(re.findall(r'id="([^"]+)"', str(chips.value)))


def test_the_family_decides_what_is_there(tmp_path: Path) -> None:
    full = parts(build_demo(ScriptedModel(), new_scene=scene))
    assert {"mv-stage", "mv-toy", "mv-new-scene", "mv-task-6"} <= full
    plain = replace(INFO, is_toy=False, tasks=TASKS[:2])
    demo = build_demo(ScriptedModel(info=plain), examples_dir=tmp_path)
    assert "mv-stage" in parts(demo)
    assert not {"mv-toy", "mv-task-2"} & parts(demo)
    (new_scene,) = (block for block in demo.blocks.values() if block.elem_id == "mv-new-scene")
    assert not new_scene.visible


def test_a_model_without_tasks() -> None:
    assert "mv-task-0" not in parts(build_demo(ScriptedModel(info=replace(INFO, tasks=()))))


def test_only_chat_is_public() -> None:
    (public,) = (fn for fn in build_demo(ScriptedModel()).fns.values() if fn.api_visibility == "public")
    assert public.api_name == "chat"
    assert (public.concurrency_limit, public.concurrency_id) == (MAX_STREAMS, "answers")  # together with the page


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
