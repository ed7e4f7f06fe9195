"""A plain HTTP client for the simulated Alpaca's REST. It shares no code with the adapter."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.support.alpaca_probe import keys


@dataclass
class Reply:
    """Status, headers and what the body holds (None when it is empty)."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Rest:
    """Asks one port as one account. `json` bodies are sent as they are; `raw` ones are bytes."""

    def __init__(self, session: aiohttp.ClientSession, port: int, headers: Mapping[str, str]) -> None:
        self._session = session
        self._base = f"http://127.0.0.1:{port}"
        self._headers = headers

    async def __call__(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **query: Any
    ) -> Reply:
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        async with self._session.request(
            method, self._base + path, data=data, params=query or None, headers=self._headers
        ) as response:
            text = await response.text()
            return Reply(response.status, response.headers, json.loads(text) if text else None)

    async def ok(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The body of an answer that must be a good one."""
        reply = await self(method, path, body, **query)
        assert reply.status < 300, f"{method} {path} {body}: {reply.status} {reply.body}"
        return reply.body


@asynccontextmanager
async def rest(port: int, headers: Mapping[str, str] | None = None) -> AsyncIterator[Rest]:
    """A client on a port, as user 1's paper account unless told otherwise."""
    async with aiohttp.ClientSession() as session:
        yield Rest(session, port, keys() if headers is None else headers)
