"""Connections to Redis or Valkey for the store and the tier: bounded, with deadlines, never tried again by the library.

Invariant: a connection of which is known that it has ended is not handed out. The library looks for what is still to be
read only, so that each connection that a failover has reset would cost one caller an error.
"""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from core.secret import Secret

TROUBLE = (RedisError, OSError, TimeoutError, RuntimeError)
"""What a call may raise; RuntimeError is uvloop's word for a connection that was reset a moment ago."""


class _Connections(BlockingConnectionPool):
    async def ensure_connection(self, connection: AbstractConnection) -> None:
        reader = connection._reader
        if reader is not None and (reader.exception() is not None or reader.at_eof()):
            await connection.disconnect()
        await super().ensure_connection(connection)


def redis_client(url: Secret, *, connections: int, timeout_s: float) -> Redis:
    """A client with so many connections at most. Dials nothing yet. Raises ValueError for a malformed URL."""
    pool = _Connections.from_url(
        url.reveal(),
        max_connections=connections,
        timeout=timeout_s,
        protocol=2,
        socket_connect_timeout=timeout_s,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)
