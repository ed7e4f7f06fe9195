"""Records in a key-value table of a Supabase project, over its REST interface with the `supabase` async client.

With the functions of migration 0002 the compare happens in the database, one request per chunk. Where they are missing
records are upserted plainly, for one process only; capabilities then say `fenced=False`. A store that was fenced once
never falls back. The library never retries. Invariant: a write counts as done only when the answer names it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Sequence
from typing import Any

import orjson
from httpx import AsyncClient as HttpClient
from httpx import HTTPError, Limits, Response
from postgrest import APIResponse
from postgrest.exceptions import APIError
from supabase import AsyncClient, AsyncClientOptions, AsyncSupabaseException

from bridge.cache.store import CHUNK, Refusal, StoreCapabilities, Stored, StoreUnavailable, Write
from bridge.cache.stores.sql_answers import EMPTY, Answers, in_order, stored_value
from bridge.runtime.clock import Clock
from core.errors import ConfigurationError
from core.secret import Secret

log = logging.getLogger(__name__)

DEFAULT_TABLE = "kv_store_bridge"
KV_TABLE = re.compile(r"kv_store_[a-z0-9_]{1,50}")
READ_CHUNK = 50  # keys stand in the URL of a read
PLAIN_CHUNK = 100  # records per plain upsert: making its JSON holds the loop
LIST_PAGE = 1000  # rows that a project answers at most, as set by default
CONNECTIONS = 8
RETRY_AFTER_MOST_S = 60.0
NO_FUNCTION = {"PGRST202", "42883"}
NO_TABLE = {"PGRST205", "42P01"}
BAD_DATA = ("22", "23", "54")  # classes of SQLSTATE: data, integrity, program limits
NO_RIGHTS = {"42501", "PGRST301", "PGRST302", "PGRST303"}


class Refused(Exception):
    """An answer other than 2xx. `code`: PostgREST's or SQLSTATE, empty when the body is not its JSON."""

    def __init__(self, status: int, code: str, retry_after_s: float | None) -> None:
        super().__init__(f"HTTP {status} {code}".rstrip())
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class SupabaseStore:
    """A Supabase project under the Store protocol. `key`: its secret (service role) key. `clock`: for plain claims."""

    def __init__(
        self,
        url: str,
        key: Secret,
        *,
        clock: Clock,
        table: str | None = None,
        name: str = "supabase",
        timeout_s: float = 1.5,
    ) -> None:
        self._table = table or DEFAULT_TABLE
        if not KV_TABLE.fullmatch(self._table):
            raise ConfigurationError(f"SUPABASE_KV_TABLE: {self._table!r} is not the name of a kv_store_… table")
        self.name = name
        self.capabilities = StoreCapabilities(exact=False)
        self.generation: str | None = None
        self._clock = clock
        self._timeout_s = timeout_s
        self._answers = Answers(name)
        self._known = False  # whether the functions are there has been found out
        self._quiet_until = 0.0  # monotonic s; asked by 429 or 503
        self._http = HttpClient(
            timeout=timeout_s,
            limits=Limits(max_connections=CONNECTIONS),
            event_hooks={"response": [_refuse]},
            trust_env=False,
        )
        options = AsyncClientOptions(
            auto_refresh_token=False, persist_session=False, postgrest_client_retry=False, httpx_client=self._http
        )
        try:
            self._client = AsyncClient(url, key.reveal(), options)
        except AsyncSupabaseException as error:
            raise ConfigurationError(f"SUPABASE_URL: {error.message}") from error

    async def open(self) -> None:
        """Try the project once: a refused key or a missing table stops the start, an unreachable project does not."""
        try:
            await self._look()
        except StoreUnavailable as error:
            cause = error.__cause__
            if not isinstance(cause, Refused):
                return
            if cause.code in NO_TABLE:
                raise ConfigurationError(f"store {self.name}: the project has no table {self._table}") from error
            if cause.status in {401, 403} or cause.code in NO_RIGHTS:
                raise ConfigurationError(f"store {self.name}: the project refuses the key ({cause})") from error

    async def claim(self, keys: Sequence[str], *, at_least: int = 0) -> list[int]:
        """Raise the fence of each key; plainly by this process's clock."""
        await self._find_out()
        fences: list[int] = []
        for start in range(0, len(keys), CHUNK):
            chunk = list(keys[start : start + CHUNK])
            if self.capabilities.fenced:
                answer = await self._rpc("bridge_kv_claim", p_keys=chunk, p_at_least=at_least)
                fences += self._answers.fences(answer, chunk)
            else:
                fences += await self._claim_plainly(chunk, at_least)
        return fences

    async def write(self, writes: Sequence[Write]) -> list[Refusal]:
        """Write one chunk by one request; plainly in a few."""
        if not writes:
            return []
        keys, fences, versions, documents = self._answers.arguments(writes)
        await self._find_out()
        if not self.capabilities.fenced:
            return await self._write_plainly(writes)
        answer = await self._rpc(
            "bridge_kv_write", p_keys=keys, p_fences=fences, p_versions=versions, p_documents=documents
        )
        refusals = self._answers.refusals(answer, writes)
        self.generation = answer.get("generation")
        return refusals

    async def read(self, keys: Sequence[str]) -> list[Stored | None]:
        """Records and their stamps."""
        found: list[Stored] = []
        for start in range(0, len(keys), READ_CHUNK):
            query = self._client.table(self._table).select("key", "value::text")
            rows = await self._rows(query.in_("key", keys[start : start + READ_CHUNK]).execute())
            found += [stored_value(row["key"], row.get("value")) for row in rows]
        return in_order(keys, found)

    async def keys(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Keys of records with this prefix, sorted by code points. Reads all of them: for listings and migration."""
        pattern = re.sub(r"([\\%_])", r"\\\1", prefix) + "%"  # a * matches more, which is sorted out below
        found: list[str] = []
        seen = 0
        while True:
            query = self._client.table(self._table).select("key").like("key", pattern).is_(f"value->>{EMPTY}", "null")
            page = await self._rows(query.order("key").range(seen, seen + LIST_PAGE - 1).execute())
            if not page:
                return sorted(key for key in found if key.startswith(prefix) and key > after)[:limit]
            seen += len(page)
            found += [row["key"] for row in page]

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove records; their fences stay."""
        await self._find_out()
        for start in range(0, len(keys), CHUNK):
            chunk = list(keys[start : start + CHUNK])
            if self.capabilities.fenced:
                if not isinstance(await self._rpc("bridge_kv_remove", p_keys=chunk), int):
                    raise StoreUnavailable(f"{self.name}: the answer to a removal cannot be read")
            else:
                held = [stored for stored in await self.read(chunk) if stored is not None]
                await self._upsert([_row(stored.key, stored.fence, stored.version, {EMPTY: True}) for stored in held])

    async def forget(self, keys: Sequence[str]) -> None:
        """Remove records and their fences."""
        for start in range(0, len(keys), READ_CHUNK):
            query = self._client.table(self._table).delete().in_("key", keys[start : start + READ_CHUNK])
            await self._rows(query.execute())

    async def ping(self) -> None:
        """A row lock, which fails where a flush would fail; without the functions, another look for them."""
        if self._known and self.capabilities.fenced:
            self.generation = _generation(await self._rpc("bridge_cache_ping"))
        else:
            await self._look()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # ------------------------------------------------------------ with the functions or without

    async def _find_out(self) -> None:
        if not self._known:
            await self._look()

    async def _look(self) -> None:
        """Find out whether the compare can happen in the database."""
        try:
            self.generation = _generation(await self._rpc("bridge_cache_open"))
            self.capabilities = StoreCapabilities(exact=False)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, Refused) or error.__cause__.code not in NO_FUNCTION:
                raise
            await self._rows(self._client.table(self._table).select("key").limit(1).execute())
            if not self._known:
                log.warning("records are written without a compare: one process only", extra={"store": self.name})
            self.capabilities = StoreCapabilities(fenced=False, exact=False)
        self._known = True

    async def _claim_plainly(self, keys: list[str], at_least: int) -> list[int]:
        floor = max(self._clock.now_ms(), at_least)
        fences: dict[str, int] = {}
        rows = []
        for key, held in zip(keys, await self.read(keys), strict=True):
            fences[key] = max(held.fence + 1, floor) if held else floor
            value = _object(held.document) if held and held.document else None
            rows.append(_row(key, fences[key], 0, {EMPTY: True} if value is None else value))
        await self._upsert(rows)
        return [fences[key] for key in keys]

    async def _write_plainly(self, writes: Sequence[Write]) -> list[Refusal]:
        """What is no JSON object cannot be stored; the rest is written in small requests."""
        refused: list[Refusal] = []
        for start in range(0, len(writes), PLAIN_CHUNK):
            rows = []
            for write in writes[start : start + PLAIN_CHUNK]:
                value = _object(write.document)
                if value is None:
                    refused.append(self._answers.cannot_store(Refusal(write.key, 0, 0), "no JSON object"))
                else:
                    rows.append(_row(write.key, write.fence, write.version, value))
            refused += await self._upsert_sound(rows)
        return refused

    async def _upsert_sound(self, rows: list[dict[str, Any]]) -> list[Refusal]:
        """Upsert; where the database refuses data, halve until the row that it cannot store stands alone."""
        try:
            await self._upsert(rows)
        except StoreUnavailable as error:
            cause = error.__cause__
            if not isinstance(cause, Refused) or not cause.code.startswith(BAD_DATA):
                raise
            if len(rows) == 1:
                return [self._answers.cannot_store(Refusal(rows[0]["key"], 0, 0), cause.code)]
            half = len(rows) // 2
            return await self._upsert_sound(rows[:half]) + await self._upsert_sound(rows[half:])
        return []

    async def _upsert(self, rows: list[dict[str, Any]]) -> None:
        """Plain upsert; done only when the answer names every row."""
        if not rows:
            return
        query = self._client.table(self._table).upsert(rows, on_conflict="key").select("key")
        named = {row["key"] for row in await self._rows(query.execute())}
        if named != {row["key"] for row in rows}:
            raise StoreUnavailable(f"{self.name}: the answer to a write does not account for every record")

    # ------------------------------------------------------------ requests

    async def _rpc(self, function: str, **parameters: object) -> Any:
        query = self._client.rpc(function, {"p_table": self._table, **parameters})
        return await self._ask(query.execute())

    async def _rows(self, request: Awaitable[APIResponse]) -> list[dict[str, Any]]:
        rows = await self._ask(request)
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "key" in row for row in rows):
            raise StoreUnavailable(f"{self.name}: the answer cannot be read")
        return rows

    async def _ask(self, request: Awaitable[APIResponse]) -> Any:
        """One request: its deadline, and the one place where errors become ours."""
        quiet_s = self._quiet_until - self._clock.monotonic()
        if quiet_s > 0:
            if inspect.iscoroutine(request):
                request.close()
            raise StoreUnavailable(f"{self.name}: asked to wait", retry_after_s=quiet_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                return (await request).data
        except Refused as error:
            if error.retry_after_s is not None:
                self._quiet_until = self._clock.monotonic() + error.retry_after_s
            raise StoreUnavailable(f"{self.name}: {error}", retry_after_s=error.retry_after_s) from error
        except (HTTPError, APIError, OSError, TimeoutError, ValueError) as error:
            raise StoreUnavailable(f"{self.name}: {type(error).__name__} {error}"[:200]) from error


async def _refuse(response: Response) -> None:
    """Every answer but 2xx, before the library reads it: its own error leaves out status and headers."""
    if response.is_success:
        return
    body = _object(await response.aread()) or {}
    code = body.get("code")
    raise Refused(response.status_code, code if isinstance(code, str) else "", _retry_after(response))


def _retry_after(response: Response) -> float | None:
    """Seconds to wait, where the answer says so as a number."""
    told = response.headers.get("retry-after", "")
    return min(float(told), RETRY_AFTER_MOST_S) if re.fullmatch(r"\d{1,6}(\.\d{1,3})?", told) else None


def _generation(answer: object) -> str:
    if not isinstance(answer, str) or not answer:
        raise StoreUnavailable("the answer cannot be read")
    return answer


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _row(key: str, fence: int, version: int, value: dict[str, Any]) -> dict[str, Any]:
    return {"key": key, "value": {**value, "fence": fence, "version": version}}
