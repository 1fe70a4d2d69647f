"""A page with a scripted model behind limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.limits.guarded_server import LimitedServer
from app.limits.policy import Limits
from tests.app.limits.visitors import ServeLimited, Visitor, arguments
from tests.fakes import ScriptedModel
from tests.waiting import free_port


@pytest.fixture
def serve_limited(
    no_stray_event_loops: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServeLimited]:
    """Pages behind limits of a test's own, closed at its end. `served.layer` of each is in `serve_limited.layers`."""
    from app.page.components import build_demo

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    with ExitStack() as stack:

        def start(limits: Limits | None = None, *, model: ScriptedModel | None = None, **changed: Any) -> str:
            args = arguments(**changed)
            demo = build_demo(model or ScriptedModel(default="A red circle."))
            limited = LimitedServer(args, limits)
            with limited.starting():
                _, url, share_url = demo.launch(
                    server_name=args.host,
                    server_port=free_port(),
                    share=args.share,
                    auth=args.auth,
                    root_path=args.root_path,
                    app_kwargs=limited.app_settings,
                    prevent_thread_lock=True,
                    quiet=True,
                )
            limited.allow_share(share_url)
            stack.callback(demo.close, verbose=False)
            start.limited, start.demo = limited, demo  # type: ignore[attr-defined]
            return str(url)

        yield start
        while Visitor.opened:
            Visitor.opened.pop().close()
