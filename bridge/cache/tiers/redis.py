"""The tier in Redis or Valkey: one key per value under a prefix of its own, expired by the server.

Like the store beside it: the library never retries, and every read is one command, so that a cancelled one costs its
connection and no reply can reach the next caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import ReadOnlyError

from bridge.cache.redis_pool import TROUBLE, redis_client
from bridge.cache.store import StoreUnavailable
from bridge.cache.tiers.tier import Held, is_exact, matcher
from core.errors import ConfigurationError
from core.secret import Secret

PREFIX = "pulse:cache:"
CONNECTIONS = 4
CONNECT_S = 1.0
BATCH = 500  # keys removed at once
_GET = "return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}"


class RedisTier:
    """Values as they are, with the server's own expiry."""

    def __init__(self, url: Secret, *, name: str = "redis") -> None:
        """`url`: redis://, rediss:// or unix://. Raises ConfigurationError if malformed."""
        self.name = name
        try:
            self._client = redis_client(url, connections=CONNECTIONS, timeout_s=CONNECT_S)
        except ValueError as error:
            raise ConfigurationError(f"the URL of cache tier {name} is malformed") from error
        self._get = self._client.register_script(_GET)

    async def get(self, key: str) -> Held | None:
        """Value and time left in one step."""
        async with self._translated():
            call: Awaitable[list[Any]] = self._get(keys=[PREFIX + key])
            value, left_ms = await call
        return Held(value, left_ms / 1000) if value is not None and left_ms > 0 else None

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """SET with PX."""
        async with self._translated():
            await self._client.set(PREFIX + key, value, px=max(1, round(ttl_s * 1000)))

    async def remove(self, pattern: str) -> None:
        """UNLINK one key, or walk the key space for a pattern."""
        async with self._translated():
            if is_exact(pattern):
                await self._client.unlink(PREFIX + pattern)
                return
            matches, batch = matcher(pattern).fullmatch, []
            async for raw in self._client.scan_iter(match=PREFIX + _glob(pattern), count=1000):
                # The server's ? is one byte: it is asked for more, and characters are compared here.
                if matches(raw.decode(errors="replace").removeprefix(PREFIX)):
                    batch.append(raw)
                if len(batch) >= BATCH:
                    await self._client.unlink(*batch)
                    batch.clear()
            if batch:
                await self._client.unlink(*batch)

    async def clean(self) -> int:
        """The server does it by itself."""
        return 0

    async def close(self) -> None:
        """Drop all connections."""
        await self._disconnect()

    async def _disconnect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._client.connection_pool.disconnect()
        except TROUBLE:
            return  # what did not close in time is dropped with the object

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except ReadOnlyError as error:
            await self._disconnect()  # a failover made this server a replica: look up the address anew
            raise StoreUnavailable(f"{self.name}: {error}") from error
        except TROUBLE as error:
            raise StoreUnavailable(f"{self.name}: {type(error).__name__} {error}"[:200]) from error


def _glob(pattern: str) -> str:
    """In the server's own language, where more characters have a meaning."""
    return "".join(f"\\{char}" if char in "[]\\^-" else "*" if char == "?" else char for char in pattern)
