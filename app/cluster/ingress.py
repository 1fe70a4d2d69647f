"""The cluster's door: the API of one process (`app/api`), before models that answer elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.access import Access
from app.api.api_application import make_api
from app.api.gate import Gate, add_state
from app.api.openai.routes import Service
from app.api.openai.served import ServedModel, ServedModels, ServiceState
from app.cluster.affinity import SessionHeader
from app.cluster.elsewhere import ReplicatedModel
from engine.stats import EngineStats

# That a new door waits for models that are there already, so that nobody is told that they are loading while doors are
# replaced. Models that load take longer: then it opens, and says so.
PATIENCE_SECONDS = 10.0


class ClusterModels(ServedModels):
    """The models of all deployments, from the moment on that each has a replica that is ready."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._served: dict[str, ServedModel] = {}
        self._is_stopping = False

    @property
    def state(self) -> ServiceState:
        if self._is_stopping:
            return "stopping"
        return "ready" if len(self._served) == len(self._names) else "loading"

    def served(self) -> Sequence[ServedModel]:
        return [self._served[name] for name in self._names if name in self._served]

    def add(self, served: ServedModel) -> None:
        """This one can be asked."""
        self._served[served.id] = served

    def stop(self) -> None:
        """Answer no more questions."""
        self._is_stopping = True


class Ingress:
    """What Ray Serve runs behind its HTTP proxy, under `serve.ingress`. `handles` are those of the models, by name."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it, and sends nothing here before it has ended
        self, handles: Mapping[str, Any], keys: Sequence[str], origins: Sequence[str]
    ) -> None:
        self._handles = dict(handles)
        self._access = Access(keys, origins)
        self._models = ClusterModels(list(handles))
        self._requests = Requests()
        self._asking = [asyncio.ensure_future(self._ask_for_facts(name)) for name in handles]
        await asyncio.wait(self._asking, timeout=PATIENCE_SECONDS)

    async def _ask_for_facts(self, name: str) -> None:
        """Waits for the first replica of a model."""
        handle = self._handles[name]
        facts = await handle.facts.remote()
        model = ReplicatedModel(handle, facts)
        self._models.add(ServedModel(id=name, model=model, created=facts.created))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray Serve after the constructor."""
        service = Service(self._models)
        api = make_api(service)
        add_state(api, self._models, self._stats)
        return self._requests.counted(SessionHeader(Gate(_NoPage(api), api, self._access)))

    async def stop(self) -> None:
        """Refuse questions from now on, as the cluster ends; those that are being answered may end."""
        self._models.stop()

    async def answering(self) -> bool:
        """Whether a request is not answered to its end."""
        return self._requests.count > 0

    async def _stats(self) -> Mapping[str, EngineStats]:
        """The counters of each replica of each model."""
        found: dict[str, EngineStats] = {}
        for name, handle in self._handles.items():
            replicas = await handle.broadcast("stats").results_async()
            found |= {f"{name}/{replica}": stats for replica, stats in replicas}
        return found


class Requests:
    """How many are under way."""

    def __init__(self) -> None:
        self.count = 0

    def counted(self, app: ASGIApp) -> ASGIApp:
        """The application, with its requests counted."""

        async def counting(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            self.count += 1
            try:
                await app(scope, receive, send)
            finally:
                self.count -= 1

        return counting


class _NoPage:
    """Stands where one process has its page: `demo.py --server-url` serves one. Starting and ending is the API's."""

    def __init__(self, api: ASGIApp) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._api(scope, receive, send)
        message = "There is no page at this address; start one with: python demo.py --server-url …/v1"
        await JSONResponse({"detail": message}, status_code=404)(scope, receive, send)
