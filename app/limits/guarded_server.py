"""Starts gradio's server with the layer in front of it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.arguments import is_open_to_others
from app.limits.addresses import parse_networks
from app.limits.budgets import metered_task
from app.limits.connections import OpenConnections, protocol_for
from app.limits.gradio_app import GradioApp
from app.limits.layer import Front, LimitsLayer
from app.limits.policy import Limits, limits_for
from app.limits.refusal import RepeatedLines
from app.limits.web_origins import Origins

if TYPE_CHECKING:
    import uvicorn
    from gradio.routes import App

ACCEPTED_AT_ONCE = 8  # connections, before the loop looks at what has come on the others
BACKLOG = 4096  # that wait to be accepted: who finds no room there tries again a second later
# Loggers whose lines visitors can have written as often as they like.
REPEATED = ("uvicorn.error", "asyncio", "app.chat.conversation_store", "app.chat.decoding.pool")
SPACE_PROXIES = ("10.0.0.0/8",)  # a Space is reached through proxies of its own network only
SPACE_ANCESTORS = "'self' https://huggingface.co https://*.hf.space"


class LimitedServer:
    """The limits of one launch: what to give to gradio's `launch`, and what is there once it runs."""

    def __init__(self, args: argparse.Namespace, limits: Limits | None = None) -> None:
        space = os.environ.get("SPACE_HOST")
        self.limits = limits or limits_for(is_public=is_open_to_others(args))
        self.trusted = parse_networks([*args.trusted_proxy, *(SPACE_PROXIES if space else ())])
        self.front = Front(
            origins=Origins([args.host, *args.allow_host, *([space] if space else [])]),
            trusted=self.trusted,
            is_shared=args.share,
            ancestors=SPACE_ANCESTORS if space else "'self'",
        )
        self.connections = OpenConnections(self.limits, self.trusted)
        self.layer: LimitsLayer | None = None
        self.awaits_api = False  # to be set before the launch where an API will be put inside of the layer

    @property
    def app_settings(self) -> dict[str, Any]:
        """For `launch(app_kwargs=…)`."""
        return {"lifespan": self._lifespan, "openapi_url": None}

    @asynccontextmanager
    async def _lifespan(self, app: App) -> AsyncIterator[None]:
        """Puts the layer before everything else, at the one moment when the server is there and nobody can connect."""
        inside = app.middleware_stack
        assert inside is not None
        gradio = GradioApp(app)
        gradio.serve_in_turns(self.connections.share)
        gradio.keep_little()
        gradio.read_uploads()
        layer = self.layer = LimitsLayer(inside, gradio, self.limits, self.front, self.connections.share)
        layer.awaits_api = self.awaits_api
        app.middleware_stack = layer
        tidying = asyncio.create_task(layer.tidy_forever())
        try:
            yield
        finally:
            tidying.cancel()
            with suppress(asyncio.CancelledError):
                await tidying

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While gradio launches: the server it starts counts connections, and believes no proxy by itself."""
        from gradio import http_server

        for name in REPEATED:
            logging.getLogger(name).addFilter(RepeatedLines())
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each form that gets a 400
        original = http_server.start_server
        http_server.start_server = self._start  # type: ignore[assignment]
        try:
            yield
        finally:
            http_server.start_server = original

    def _start(self, app: App, server_name: str, server_port: int, **tls: Any) -> tuple[str, int, str, Any]:
        """As gradio's `start_server`, for a port that is known to be free."""
        import uvicorn
        from gradio.http_server import Server

        config = uvicorn.Config(
            app,
            host=server_name,
            port=server_port,
            log_level="warning",
            http=protocol_for(self.connections),
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
            **tls,
        )
        server = Server(config=config)
        server.run_in_thread()
        for listening in server.servers:
            Listener(self.connections, server, listening).take_over()
        named = "localhost" if server_name == "0.0.0.0" else server_name
        return server_name, server_port, f"http://{f'[{named}]' if ':' in named else named}:{server_port}/", server

    def refuse_work(self, reason: str) -> None:
        """From now on only what has begun is served."""
        if self.layer is not None:
            self.layer.refuses = reason

    @property
    def is_answering(self) -> bool:
        """Whether an answer is being written or sent."""
        return self.layer is not None and self.layer.num_answering > 0

    def allow_share(self, url: str | None) -> None:
        """Answer to the name of the share link, and believe what its tunnel says about who comes through it."""
        if url:
            self.front.tunnel_host = urlsplit(url).netloc.lower()
            self.front.origins.allow(self.front.tunnel_host)


class Listener:
    """Takes over from asyncio to accept connections: few at once, so that others are served between them, and without
    making anything for those that may not stay."""

    def __init__(self, opened: OpenConnections, server: uvicorn.Server, listening: asyncio.Server) -> None:
        self._opened, self._server, self._listening = opened, server, listening
        self._loop = listening.get_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    def take_over(self) -> None:
        """From the next moment of the loop on, whose thread may be another."""
        if isinstance(self._loop, asyncio.SelectorEventLoop):
            self._loop.call_soon_threadsafe(self._listen)

    def _listen(self) -> None:
        self._loop.set_task_factory(metered_task)  # type: ignore[arg-type]  # of which typeshed knows a part
        for one in self._listening.sockets:  # none once it is closed
            with one.dup() as same:
                same.listen(BACKLOG)
            self._loop.add_reader(one.fileno(), partial(self._accept, one))  # in place of asyncio's own

    def _accept(self, listening: socket.socket) -> None:
        same = socket.socket(listening.family, listening.type, listening.proto, listening.fileno())
        try:
            for _ in range(ACCEPTED_AT_ONCE):
                connection, address = same.accept()
                if not self._opened.may_come(address[0]):
                    connection.close()
                    continue
                connection.setblocking(False)
                made = self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._server.config.ssl)
                task = self._loop.create_task(made)
                self._tasks.add(task)
                task.add_done_callback(self._made)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            pass
        except OSError as error:  # no more files
            logging.getLogger("asyncio").error("connections can't be accepted: %s", error)
            self._loop.remove_reader(listening.fileno())
            self._loop.call_later(1, self._listen)
        finally:
            same.detach()  # it is asyncio's, which closes it

    def _protocol(self) -> asyncio.Protocol:
        config, server = self._server.config, self._server
        make: Any = config.http_protocol_class
        made: asyncio.Protocol = make(config=config, server_state=server.server_state, app_state=server.lifespan.state)
        return made

    def _made(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # of one that has gone before it was there, as after a failed handshake
