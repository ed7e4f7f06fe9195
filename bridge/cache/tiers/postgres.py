"""The tier in Postgres: the table `bridge_cache`. Expiry is judged by the database's clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bridge.cache.store import StoreUnavailable
from bridge.cache.tiers.tier import Held, is_exact
from bridge.db.database import Database
from core.errors import BridgeError

ROWS_KEPT = 100_000
CLEAN_BATCH = 5_000

_GET = """
select value, extract(epoch from expires_at - clock_timestamp())::float8 as left_s
from public.bridge_cache where key = $1 and expires_at > clock_timestamp()
"""
_SET = """
insert into public.bridge_cache (key, value, expires_at)
values ($1, $2, clock_timestamp() + make_interval(secs => $3))
on conflict (key) do update set value = excluded.value, expires_at = excluded.expires_at
"""
_REMOVE = "delete from public.bridge_cache where key = $1"
_REMOVE_LIKE = r"delete from public.bridge_cache where key like $1 escape '\'"
_EXPIRED = """
delete from public.bridge_cache where key in (
  select key from public.bridge_cache where expires_at <= clock_timestamp() order by expires_at
  limit $1 for update skip locked
) returning 1
"""
_TOO_MANY = """
delete from public.bridge_cache where key in (
  select key from public.bridge_cache order by expires_at desc offset $1 limit $2
) returning 1
"""


class PostgresTier:
    """Values in rows. Only what may be lost belongs here: the table is not in the write-ahead log."""

    def __init__(self, database: Database, *, name: str = "postgres", rows_kept: int = ROWS_KEPT) -> None:
        """`database` is opened and closed by whoever made it."""
        self.name = name
        self._database = database
        self._rows_kept = rows_kept

    async def get(self, key: str) -> Held | None:
        """One select."""
        async with self._translated():
            row = await self._database.fetch_row(_GET, key)
        return None if row is None else Held(row["value"], row["left_s"])

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """One upsert."""
        async with self._translated():
            await self._database.execute(_SET, key, value, ttl_s)

    async def remove(self, pattern: str) -> None:
        """One delete."""
        async with self._translated():
            if is_exact(pattern):
                await self._database.execute(_REMOVE, pattern)
            else:
                await self._database.execute(_REMOVE_LIKE, _like(pattern))

    async def clean(self) -> int:
        """Delete expired rows, then those beyond the number kept that expire soonest, a batch of each at a time."""
        async with self._translated():
            expired = await self._database.fetch(_EXPIRED, CLEAN_BATCH)
            beyond = await self._database.fetch(_TOO_MANY, self._rows_kept, CLEAN_BATCH)
        return len(expired) + len(beyond)

    async def close(self) -> None:
        """Nothing of its own to release."""

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except BridgeError as error:
            raise StoreUnavailable(f"{self.name}: {error}"[:200]) from error


def _like(pattern: str) -> str:
    return "".join(f"\\{char}" if char in "%_\\" else {"*": "%", "?": "_"}.get(char, char) for char in pattern)
