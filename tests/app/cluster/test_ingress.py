"""A new door: it opens when the models that are there can be asked."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from app.cluster.facts import Facts
from models.prompt import PromptFormat
from tests.fakes import INFO
from tests.waiting import in_a_loop

pytestmark = pytest.mark.usefixtures("with_ray")
FACTS = Facts(info=INFO, prompt_format=PromptFormat(user_prefix="", assistant_prefix=""), created=1)


class ModelHandle:
    """Of a deployment whose replicas say what they are; `is_there`: now, and not once they are loaded."""

    def __init__(self, *, is_there: bool) -> None:
        self._is_there = is_there

    @property
    def facts(self) -> ModelHandle:
        return self

    async def remote(self) -> Facts:
        await asyncio.sleep(0.01 if self._is_there else 3600)
        return FACTS


async def health(*handles: Any) -> int:
    """What a door answers in its first moment."""
    from app.cluster.ingress import Ingress

    door = Ingress.__new__(Ingress)
    await door.__init__({str(number): handle for number, handle in enumerate(handles)}, [], [])  # type: ignore[misc]
    transport = httpx.ASGITransport(app=door.__serve_build_asgi_app__())
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        return (await client.get("/health")).status_code


def test_it_opens_when_all_models_can_be_asked() -> None:
    assert in_a_loop(health(ModelHandle(is_there=True), ModelHandle(is_there=True))) == 200


def test_it_refuses_while_the_cluster_ends() -> None:
    async def ended() -> tuple[list[bool], httpx.Response]:
        from app.cluster.ingress import Ingress

        door = Ingress.__new__(Ingress)
        await door.__init__({"model": ModelHandle(is_there=True)}, [], [])  # type: ignore[misc]
        application, seen = door.__serve_build_asgi_app__(), [await door.answering()]

        async def seeing(scope: Any, receive: Any, send: Any) -> None:
            async def sent(message: Any) -> None:
                seen.append(await door.answering())
                await send(message)

            await application(scope, receive, sent)

        await door.stop()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=seeing), base_url="http://door") as client:
            answer = await client.get("/v1/models")
        return [*seen, await door.answering()], answer

    seen, answer = in_a_loop(ended())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_stopping")
    assert (seen[0], seen[-1]) == (False, False)
    assert all(seen[1:-1])  # while it was answered
    assert len(seen) > 2


def test_it_opens_and_says_so_while_a_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.ingress.PATIENCE_SECONDS", 0.05)
    assert in_a_loop(health(ModelHandle(is_there=True), ModelHandle(is_there=False))) == 503
