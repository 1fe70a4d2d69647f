"""The server around the page: its port, its privacy, its log, and how it runs until Ctrl+C."""

from __future__ import annotations

import argparse
import hmac
import logging
import os
import socket
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from app.ending import Ending, leave
from app.garbage import set_aside
from models.disk import scratch_folder
from models.errors import RequestError, ShutDown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import gradio as gr
    from gradio.routes import App

    from app.api.access import Access
    from app.api.library_models import LibraryModels
    from app.api.openai.served import OneModel
    from app.library.library import ModelLibrary
    from app.limits.guarded_server import LimitedServer
    from engine.stats import Counters


CLOSING_SECONDS = 5.0  # after the grace, for connections, threads and files


def free_port(host: str, port: int) -> int:
    """The port to serve on, checked to be free; 0 becomes one that is. Raises RequestError when it is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last server just closed is free
        try:
            probe.bind((host, port))
        except OverflowError as error:
            raise RequestError(f"--port {port} does not exist; choose one from 1 to 65535.") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise RequestError(f"can't listen on {host}:{port} ({reason}); try another --port or --host.") from error
        return int(probe.getsockname()[1])


def be_private() -> None:
    """Switch off the libraries' telemetry; must come before their first import."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def own_upload_folder() -> None:
    """Keep uploads of this server apart from other programs', unless GRADIO_TEMP_DIR says where; deleted at the end."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        os.environ["GRADIO_TEMP_DIR"] = str(scratch_folder("minivlm-chat-uploads-"))


def run(demo: gr.Blocks, args: argparse.Namespace, port: int, library: ModelLibrary) -> None:
    """Serve page and API until SIGTERM or Ctrl+C."""
    from app.api.library_models import LibraryModels
    from app.api.metrics import UsageLog

    models = LibraryModels(library)
    check = partial(refuse_changed, library)
    serve(demo, args, port, models, models.stats, check=check, usage=UsageLog(models.stats))


def serve(
    demo: gr.Blocks,
    args: argparse.Namespace,
    port: int,
    models: LibraryModels | OneModel,
    stats: Callable[[], Mapping[str, Counters]],
    *,
    check: Callable[[LimitedServer], None] = lambda _: None,
    usage: AbstractContextManager[Any] | None = None,
) -> None:
    """As `run`, wherever the models are. `check` is called now and then; `usage` is entered while it serves."""
    if args.share and not (args.auth or args.api_key):
        print("note: --share without --auth lets anyone who has the link use this machine.", file=sys.stderr)
    from app.api.gate import add_api
    from app.api.metrics import log_to_stderr
    from app.chat.live_answer import end_all
    from app.limits.guarded_server import LimitedServer

    limited = LimitedServer(args)
    limited.awaits_api = True
    with limited.starting():
        app, local_url, share_url = demo.launch(
            server_name=args.host,
            server_port=port,
            share=args.share,
            auth=login(args),
            root_path=args.root_path,
            app_kwargs=limited.app_settings,
            prevent_thread_lock=True,
            quiet=True,
        )
    limited.allow_share(share_url)
    add_api(app, models, stats, access(args, app), behind=limited.layer)
    assert limited.layer is not None
    limited.layer.awaits_api = False
    set_aside()
    print("\n".join(f"Open {url} in a browser; Ctrl+C stops." for url in (local_url, share_url) if url), flush=True)
    print(f"Programs ask {local_url}v1 (docs/api.md).", flush=True)
    logging.getLogger("uvicorn.error").addFilter(is_worth_a_line)
    log_to_stderr()
    ending, are_left = Ending(args.grace), False
    try:
        with usage or nullcontext():
            ending.wait(lambda: check(limited))
            limited.refuse_work("The server is stopping.")
            print("Stopping: answers that are being written may end; Ctrl+C stops at once.", file=sys.stderr)
            are_left = not ending.let_finish(lambda: limited.is_answering)
            if are_left:
                print(f"Some answers did not end within {args.grace} seconds (--grace).", file=sys.stderr)
                end_all(ShutDown("The server was stopped while it answered. Ask again once it is there again."))
            ending.close_within(CLOSING_SECONDS)
    finally:
        models.stop()
        demo.close(verbose=False)
    if are_left:
        leave()  # their threads may still compute


def refuse_changed(library: ModelLibrary, limited: LimitedServer) -> None:
    """Once a file that a model is used from has changed, say so; that model answers nothing more."""
    for line in library.look():
        print(
            f"error: {line} Start again. With --copy-weights models are kept in memory of their own.", file=sys.stderr
        )
        if all(entry.state == "not here" for entry in library.entries):
            limited.refuse_work("The model's files have changed. The server must be started again.")


def login(args: argparse.Namespace) -> Any:
    """What the page asks visitors for: name and password, or any name and the key, which else had a back door."""
    if args.auth or not args.api_key:
        return args.auth
    return lambda _, password: hmac.compare_digest(password.encode(), args.api_key.encode())


def access(args: argparse.Namespace, app: App) -> Access:
    """Who may ask the API: programs with the key, or with the page's name and password, and visitors who logged in."""
    from app.api.access import Access
    from app.limits.gradio_app import GradioApp

    gradio = GradioApp(app)
    keys = [args.api_key] if args.api_key else []
    keys += [":".join(args.auth)] if args.auth else []
    return Access(keys, args.allow_origin, lambda request: gradio.is_logged_in(request.cookies))


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether to log it: not the seventy lines about a visitor who left while something was being sent, nor those about
    a request that was cut off because the server ends."""
    error = record.exc_info[1] if record.exc_info else None
    # By name, as starlette's is gradio's to import.
    return type(error).__name__ not in ("ClientDisconnect", "CancelledError")
