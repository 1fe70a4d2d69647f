"""What the server answers to; everything else is closed."""

from __future__ import annotations

import pytest

from app.limits.refusal import Refused
from app.limits.route_kinds import Kind, route_of


@pytest.mark.parametrize(
    ("method", "path", "kind", "name"),
    [
        ("GET", "/", Kind.PAGE, ""),
        ("HEAD", "/", Kind.PAGE, ""),
        ("POST", "/gradio_api/run/predict", Kind.RUN, "predict"),
        ("POST", "/gradio_api/api/x/", Kind.RUN, "x"),
        ("POST", "/gradio_api/call/chat", Kind.CALL, "chat"),
        ("POST", "/gradio_api/call/v2/chat", Kind.CALL, "chat"),
        ("GET", "/gradio_api/call/chat/abc", Kind.CALL_RESULT, "abc"),
        ("GET", "/gradio_api/heartbeat/abc", Kind.HEARTBEAT, "abc"),
        ("GET", "/gradio_api/file=/tmp/x/../y", Kind.FILE, ""),
        ("DELETE", "/v1/files/1", Kind.API, ""),
    ],
)
def test_known(method: str, path: str, kind: Kind, name: str) -> None:
    route = route_of(method, path)
    assert (route.kind, route.name) == (kind, name)


@pytest.mark.parametrize(
    "path",
    [
        "/openapi.json",
        "/docs",
        "/monitoring",
        "/gradio_api/component_server",
        "/gradio_api/vibe-edit",
        "/gradio_api/runs",
        "/gradio_api/deep_link",
        "/gradio_api/file=http://example.com/a.png",
        "/gradio_api/file/https://example.com/a.png",
        "/gradio_api/proxy=http://x",
        "/gradio_api/stream/a/1/2/playlist-file",
        "//",
        "/v10",
        "/gradio_api/dev/reload",
        "/gradio_api/custom_component/a/b/c/d",
        "/gradio_api/process_recording",
        "/pwa_icon/20000",
        "/gradio_api/token",
        "/assets/" + "x" * 256,
        "/assets/" + "é" * 128,
        "/static/" + "x/" * 2000,
        "",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_closed(method: str, path: str) -> None:
    with pytest.raises(Refused) as refused:
        route_of(method, path)
    assert refused.value.status == 404


def test_other_methods_do_nothing() -> None:
    for method in ("PUT", "OPTIONS", "x" * 50):
        with pytest.raises(Refused) as refused:
            route_of(method, "/gradio_api/upload")
        assert refused.value.status == 405
        assert len(refused.value.reason) < 60
