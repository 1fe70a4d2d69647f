"""Pictures of requests are decoded a few at a time, and never only those of one address."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

from app.api.openai.from_messages import Conversation
from app.api.openai.routes import MOST_PREPARING, Service
from engine.asker import ASKER, Asker
from tests.waiting import in_a_loop

READ = Conversation(turns=())


def test_an_address_with_many_requests_leaves_room_for_one() -> None:
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def slow() -> Conversation:
        begun.release()
        assert go_on.wait(20)
        return READ

    async def ask(service: Service, client: str, read: Any) -> Conversation:
        ASKER.set(Asker(client))
        return await service.prepare(read)

    async def serve() -> None:
        service = Service(cast(Any, None))
        many = [asyncio.create_task(ask(service, "1.1.1.1", slow)) for _ in range(9)]
        for _ in range(MOST_PREPARING):
            assert await asyncio.to_thread(begun.acquire, timeout=20)
        other = asyncio.create_task(ask(service, "2.2.2.2", lambda: READ))
        assert await asyncio.wait_for(other, 20) is READ
        assert not any(task.done() for task in many)
        go_on.set()
        assert await asyncio.gather(*many) == [READ] * 9

    in_a_loop(serve())
