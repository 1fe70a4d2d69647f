"""What gradio keeps to itself and the program relies on is still there: an upgrade fails here, a line for each name."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import gradio as gr
import gradio.routes
import gradio.utils
import pytest
from gradio import http_server
from gradio.queueing import Queue
from gradio.route_utils import FileUploadProgress, GradioMultiPartParser
from gradio.routes import App
from gradio.state_holder import StateHolder
from starlette.datastructures import Headers
from starlette.requests import Request

from tests.app.limits.visitors import ServeLimited, Visitor
from tests.paths import ROOT

# By owner: what is private or not documented.
NAMES = {
    "app": ("auth", "cookie_id", "get_blocks", "state_holder", "tokens", "uploaded_file_dir"),
    "blocks": (
        "_queue", "fns", "get_state_ids_to_track", "handle_streaming_diffs", "pending_diff_streams",
        "postprocess_data", "state_holder",
    ),
    "queue": (
        "event_ids_to_events", "pending_event_ids_session", "pending_messages_per_session",
    ),
    "listener": ("api_name", "api_visibility", "fn", "outputs", "queue"),
    "states": ("delete_state", "session_data", "set_blocks", "time_last_used"),
    "state": ("blocks_config", "is_closed", "state_data"),
    "component": ("_id", "stateful"),
    "routes": ("file_upload_statuses", "templates"),
    "route_utils": ("FileUploadProgress", "GradioMultiPartParser", "GradioUploadFile"),
    "form": ("_current_files", "_current_part", "_files_to_close_on_error", "items", "on_headers_finished", "parse"),
    "progress": ("_signals", "_statuses", "is_tracked", "stop_tracking", "track"),
    "http_server": ("Server", "start_server"),
    "utils": ("MatplotlibBackendMananger",),
}  # fmt: skip
FILES = (
    "app/limits/gradio_app.py",
    "app/limits/boundary.py",
    "app/limits/guarded_server.py",
    "app/limits/upload_forms.py",
    "app/page/conversation_component.py",
    "app/page/tabs.py",
)


@pytest.fixture(scope="module")
def owners(no_stray_event_loops: None) -> dict[str, Any]:
    with gr.Blocks() as blocks:
        text = gr.Textbox()
        text.submit(lambda value: value, text, text)
    holder = StateHolder()
    holder.set_blocks(blocks)
    blocks.app = App.create_app(blocks)
    return {
        "app": blocks.app,
        "blocks": blocks,
        "queue": Queue(False, 1, 0.1, None, blocks),
        "listener": next(iter(blocks.fns.values())),
        "states": holder,
        "state": holder["somebody"],
        "component": text,
        "routes": gradio.routes,
        "route_utils": gradio.route_utils,
        "form": GradioMultiPartParser(Headers(), Request({"type": "http"}).stream(), max_file_size=1),
        "progress": FileUploadProgress(),
        "http_server": http_server,
        "utils": gradio.utils,
    }


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in NAMES.items() for name in names])
def test_the_name_exists(owner: str, name: str, owners: dict[str, Any]) -> None:
    users = [file for file in FILES if name in (ROOT / file).read_text(encoding="utf-8")]
    assert users, f"{name} is used no more"
    assert hasattr(owners[owner], name), f"gradio {gr.__version__}: {owner}.{name} of {', '.join(users)}"


def test_a_session_keeps_no_description_of_the_page(serve_limited: ServeLimited) -> None:
    """Gradio writes one for each session, while everybody waits, and for links that are closed here."""
    url = serve_limited()
    visitor = Visitor(url)
    assert "A red circle." in visitor.ask("hello")
    kept = serve_limited.demo.state_holder.session_data  # type: ignore[attr-defined]
    assert len(kept) == 1
    assert [one for state in kept.values() for one in state.config_values.values() if one] == []


def test_the_server_is_started_with_these_arguments() -> None:
    """What replaces it in app/limits/guarded_server.py takes the first three by name and passes on those for TLS."""
    assert list(inspect.signature(http_server.start_server).parameters)[:3] == ["app", "server_name", "server_port"]


def test_every_private_name_is_listed() -> None:
    used, ours = set(), {"_ArgumentGroup", "_exit", "_replace", "_run_exitfuncs"}  # of Python itself
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                if isinstance(node.value, ast.Name) and node.value.id == "self" and isinstance(node.ctx, ast.Store):
                    ours.add(node.attr)
                used.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                ours.add(node.name)
    assert used - ours - {name for names in NAMES.values() for name in names} == set()
