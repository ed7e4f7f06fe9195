"""Records in Postgres: in the table of records, or in a key-value table that a Supabase project already has.

The compare, the claim and the row that cannot be stored are decided by functions in the database (migration 0002); this
module calls them, bounds every wait and translates errors. It works through poolers: one transaction per call, no state
of the session. Invariant: reads never hold every connection, so that a flush finds one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from bridge.cache.store import CHUNK, Refusal, StoreCapabilities, Stored, StoreUnavailable, Write
from bridge.cache.stores.sql_answers import EMPTY, Answers, in_order, stored_value
from bridge.db.database import Connection, Database, Row
from bridge.db.errors import (
    DatabaseConflict,
    DatabaseMisused,
    DatabaseRefusesUs,
    DatabaseUnavailable,
)
from core.errors import ConfigurationError

TABLE = "account_cache"
STATEMENT_S = 1.5
ALTER_S = 30.0
LOCK_S = 2  # how long to wait for the table before its kind is changed
KV_TABLE = re.compile(r"kv_store_[a-z0-9_]{1,50}")

_OWN = {
    "open": "select public.bridge_cache_open('account_cache')",
    "ping": "select public.bridge_cache_ping('account_cache')",
    "claim": "select public.bridge_cache_claim($1, $2)",
    "write": "select public.bridge_cache_write($1, $2, $3, $4)",
    "read": "select key, fence, version, document from public.account_cache where key = any($1)",
    "keys": """
select key from public.account_cache
where document is not null and starts_with(key, $1) and key > $2 order by key limit $3
""",
    "delete": """
with held as (select key from public.account_cache where key = any($1) order by key for update)
update public.account_cache t set document = null, updated_at = clock_timestamp() from held where t.key = held.key
""",
    "forget": """
with held as (select key from public.account_cache where key = any($1) order by key for update),
gone as (delete from public.account_cache t using held where t.key = held.key)
delete from public.bridge_cache_fences where key = any($1)
""",
}
# The table's name stands in the text only where it is no argument of a function; the pattern above is all it can be.
_KV = {
    "open": "select public.bridge_cache_open('{table}')",
    "ping": "select public.bridge_cache_ping('{table}')",
    "claim": "select public.bridge_kv_claim('{table}', $1, $2)",
    "write": "select public.bridge_kv_write('{table}', $1, $2, $3, $4)",
    "read": "select key, value::text as value from public.{table} where key = any($1)",
    "keys": """
select key from public.{table}
where not coalesce(value ? '{empty}', true) and starts_with(key, $1) and key collate "C" > $2
order by key collate "C" limit $3
""",
    "delete": "select public.bridge_kv_remove('{table}', $1)",
    "forget": "delete from public.{table} where key = any($1)",
}


class PostgresStore:
    """A Postgres database under the Store protocol.

    `database`: a pool of this store's own, which it opens and closes. `kv_table`: keep records as (key, value jsonb) in
    this table instead of `account_cache`. `unlogged`: keep `account_cache` out of the write-ahead log (or in it again);
    fences stay in it. `reads_at_once`: connections that reads may hold; the pool should have at least one more.
    """

    def __init__(
        self,
        database: Database,
        *,
        kv_table: str | None = None,
        unlogged: bool = False,
        name: str = "postgres",
        reads_at_once: int = 1,
    ) -> None:
        if kv_table is not None and not KV_TABLE.fullmatch(kv_table):
            raise ConfigurationError(f"SUPABASE_KV_TABLE: {kv_table!r} is not the name of a kv_store_… table")
        self.name = name
        self.capabilities = StoreCapabilities(exact=kv_table is None)
        self.generation: str | None = None
        self._database = database
        self._kv = kv_table is not None
        self._unlogged = unlogged
        self._sql = {
            call: sql.replace("{table}", kv_table).replace("{empty}", EMPTY) if kv_table else sql
            for call, sql in (_KV if kv_table else _OWN).items()
        }
        self._answers = Answers(name)
        self._reads = asyncio.Semaphore(reads_at_once)
        self._prepared = False

    async def open(self) -> None:
        """Make the pool and look at the tables. A database that does not answer is looked at when it does."""
        await self._database.open()
        try:
            await self._prepare()
        except StoreUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, DatabaseMisused):
                raise ConfigurationError(f"store {self.name}: {cause} (has `python -m bridge migrate` run?)") from error
            if isinstance(cause, DatabaseRefusesUs):
                raise ConfigurationError(f"store {self.name}: {cause}") from error

    async def claim(self, keys: Sequence[str], *, at_least: int = 0) -> list[int]:
        """Raise the fence of each key, by the database's clock. At most CHUNK keys are claimed in one step."""
        fences: list[int] = []
        for start in range(0, len(keys), CHUNK):
            chunk = list(keys[start : start + CHUNK])
            fences += self._answers.fences(await self._value("claim", chunk, at_least), chunk)
        return fences

    async def claim_within(self, connection: Connection, keys: Sequence[str], at_least: int) -> None:
        """The same in the transaction of `connection`, on the same database: what has been claimed there is claimed
        here, or neither. Keys come sorted. Raises what the database raises."""
        for start in range(0, len(keys), CHUNK):
            await connection.fetchval(self._sql["claim"], list(keys[start : start + CHUNK]), at_least)

    async def write(self, writes: Sequence[Write]) -> list[Refusal]:
        """Write one chunk in one statement."""
        if not writes:
            return []
        answer = orjson.loads(await self._value("write", *self._answers.arguments(writes)))
        refusals = self._answers.refusals(answer, writes)
        self.generation = answer.get("generation")
        return refusals

    async def read(self, keys: Sequence[str]) -> list[Stored | None]:
        """Records and their stamps."""
        if not keys:
            return []
        rows = await self._rows("read", list(keys))
        return in_order(keys, (self._stored(row) for row in rows))

    async def keys(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Keys of records with this prefix, sorted by code points."""
        return [row["key"] for row in await self._rows("keys", prefix, after, limit)]

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove records; their fences stay."""
        for start in range(0, len(keys), CHUNK):
            await self._value("delete", list(keys[start : start + CHUNK]))

    async def forget(self, keys: Sequence[str]) -> None:
        """Remove records and their fences."""
        for start in range(0, len(keys), CHUNK):
            await self._value("forget", list(keys[start : start + CHUNK]))

    async def ping(self) -> None:
        """A row lock, which fails where a flush would fail."""
        self.generation = await self._value("ping")

    async def close(self) -> None:
        """Close the pool."""
        await self._database.close()

    def _stored(self, row: Row) -> Stored:
        if self._kv:
            return stored_value(row["key"], row["value"])
        return Stored(row["key"], row["fence"], row["version"], (row["document"] or "").encode())

    # ------------------------------------------------------------ the database

    async def _value(self, call: str, *arguments: object) -> Any:
        """Call a function, once more after a deadlock: the other side has got its locks by then."""
        await self._prepare()

        async def called(connection: Connection) -> Any:
            return await connection.fetchval(self._sql[call], *arguments)

        async with self._translated():
            return await self._database.repeated(called, tries=2, timeout_s=STATEMENT_S)

    async def _rows(self, call: str, *arguments: object) -> list[Row]:
        """Read. The wait for the turn counts into the deadline."""
        async with self._translated(), asyncio.timeout(2 * STATEMENT_S), self._reads:
            return await self._database.fetch(self._sql[call], *arguments, timeout_s=STATEMENT_S)

    async def _prepare(self) -> None:
        """Once, as soon as the database answers: are tables and grants there, is the table of the kind asked for."""
        if self._prepared:
            return
        async with self._translated(), self._database.transaction(timeout_s=ALTER_S) as connection:
            if not self._kv:
                await self._change_kind(connection)
            self.generation = await connection.fetchval(self._sql["open"])
        self._prepared = True

    async def _change_kind(self, connection: Connection) -> None:
        """Make the table unlogged or logged, where it is not. Rewrites it, so others wait."""
        kind = "select relpersistence = 'u' from pg_class where oid = to_regclass('public.account_cache')"
        if await connection.fetchval(kind) is (not self._unlogged):
            await connection.execute(f"set local lock_timeout = '{LOCK_S}s'")
            await connection.execute(f"alter table public.{TABLE} set {'unlogged' if self._unlogged else 'logged'}")

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """The one place where the database's errors become this protocol's."""
        try:
            yield
        except (DatabaseUnavailable, DatabaseConflict, DatabaseMisused) as error:
            raise StoreUnavailable(f"{self.name}: {error}"[:300]) from error
        except TimeoutError as error:
            raise StoreUnavailable(f"{self.name}: no answer in time") from error
