"""A server on loopback that answers in Alpaca's place what a test tells it to, and keeps what it was asked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from bridge.brokers.base import BrokerFault

Answer = web.StreamResponse | dict[str, Any] | list[Any]
Answering = Callable[[web.Request], Awaitable[Answer] | Answer]


@dataclass
class Host:
    """Its answers are for a test to replace."""

    answering: Answering = lambda request: web.Response(status=404)
    asked: list[web.Request] = field(default_factory=list)
    forms: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.forms.append(dict(await request.post()))
        answer = self.answering(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        return web.json_response(answer) if isinstance(answer, (dict, list)) else answer  # type: ignore[return-value]

    def url(self, path: str = "") -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [f"{each.method} {each.path}" for each in self.asked]


@asynccontextmanager
async def running_host() -> AsyncIterator[Host]:
    """A host on a free port."""
    host = Host()
    runner = web.ServerRunner(web.Server(host.handle), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host.port = runner.addresses[0][1]
        yield host
    finally:
        await runner.cleanup()


async def fault_of(asking: Awaitable[object]) -> BrokerFault:
    with pytest.raises(BrokerFault) as caught:
        await asking
    return caught.value
