"""Records in Redis or Valkey: one script per chunk compares and sets, so that the compare happens inside the store.

Beside each record lies a side key `pulse:fence:<key>` with fence and version as 2 x 16 digits: equal widths let the
script compare plain strings, without parsing JSON and without losing precision. Neither key expires, so an older owner
is refused even after its record was removed. `pulse:life` names the life of the data: when it is gone, the server lost
what it held. `pulse:deployment` names the database it belongs to: the scripts refuse to work for another. The library
never retries (it would stretch deadlines); a cancelled command costs its connection, so no reply can reach the next
caller. The side keys are computed inside the scripts: a server, not a cluster.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ReadOnlyError, ResponseError

from bridge.cache.redis_pool import TROUBLE, redis_client
from bridge.cache.store import CHUNK, Refusal, StoreCapabilities, Stored, StoreUnavailable, Write
from core.errors import ConfigurationError
from core.secret import Secret

log = logging.getLogger(__name__)

SIDE = "pulse:"  # prefix of everything that is not a record
FENCE = SIDE + "fence:"
WRITE_CONNECTIONS = 2  # one flush in flight, and a spare for a probe
READ_CONNECTIONS = 16
FOREIGN_HINT = "this Redis belongs to another deployment (key pulse:deployment); give each its own server or database"
_DIGITS = 16
_STAMP = 2 * _DIGITS

# The last argument of every script: the deployment, or nothing. A server that belongs to nobody becomes this one's;
# where there is no name for the life of the data, the server's time becomes it.
_LIFE = """
local deployment = ARGV[#ARGV]
if deployment ~= '' then
  local owner = redis.call('GET', 'pulse:deployment')
  if owner and owner ~= deployment then return redis.error_reply('FOREIGN deployment') end
  if not owner then redis.call('SET', 'pulse:deployment', deployment) end
end
local time = redis.call('TIME')
local life = redis.call('GET', 'pulse:life') or time[1] .. '.' .. time[2]
"""

# A stamp that is not 32 digits, or beyond 2^53, was not written by us: it counts as absent and is overwritten.
_COMMON = (
    _LIFE
    + """
redis.call('SET', 'pulse:life', life)
local function ours(held)
  return #held == 32 and not string.find(held, '%D') and string.sub(held, 1, 16) <= '9007199254740991'
end
local sides = {}
for i, key in ipairs(KEYS) do sides[i] = 'pulse:fence:' .. key end
local held = redis.call('MGET', unpack(sides))
"""
)

# ARGV[1]: the new stamps, end to end; ARGV[2..]: the documents. Answers the life, then index and stamp of each refusal.
_WRITE = (
    _COMMON
    + """
local answer, sets, n, stamps, sub = {life}, {}, 0, ARGV[1], string.sub
for i, key in ipairs(KEYS) do
  local new, old = sub(stamps, 32 * i - 31, 32 * i), held[i]
  if old and new <= old and ours(old) then
    answer[#answer + 1] = i
    answer[#answer + 1] = old
  else
    sets[n + 1], sets[n + 2], sets[n + 3], sets[n + 4] = key, ARGV[i + 1], sides[i], new
    n = n + 4
  end
end
if n > 0 then redis.call('MSET', unpack(sets)) end
return answer
"""
)

# ARGV[1]: the least fence. Answers the life, then the new fences. Doubles are exact here: everything is below 2^53.
_CLAIM = (
    _COMMON
    + """
local floor = math.max(tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000), tonumber(ARGV[1]))
local answer, sets = {life}, {}
for i = 1, #KEYS do
  local old = held[i] and ours(held[i]) and tonumber(string.sub(held[i], 1, 16)) or 0
  local fence = string.format('%016.0f', math.max(old + 1, floor))
  answer[i + 1] = fence
  sets[2 * i - 1], sets[2 * i] = sides[i], fence .. '0000000000000000'
end
redis.call('MSET', unpack(sets))
return answer
"""
)

# Writes, so that it fails where a flush would fail.
_PING = (
    _LIFE
    + """
redis.call('SET', 'pulse:life', life)
return {life}
"""
)


class RedisStore:
    """A Redis or Valkey server under the Store protocol. Flushing and reading have connections of their own."""

    def __init__(
        self, url: Secret, *, name: str = "redis", timeout_s: float = 1.5, deployment_id: str | None = None
    ) -> None:
        """`url`: redis://, rediss:// or unix://, with password and database. Raises ConfigurationError if malformed.

        `deployment_id`: the database's id; a server that belongs to another one is not used. None: not looked at. May
        be set later, once it is known.
        """
        self.name = name
        self.deployment_id = deployment_id
        self.capabilities = StoreCapabilities()
        self.generation: str | None = None
        self._timeout_s = timeout_s
        self._foreign = False  # the server belongs to another deployment
        self._writer = self._client(url, WRITE_CONNECTIONS)
        self._reader = self._client(url, READ_CONNECTIONS)
        self._write_script = self._writer.register_script(_WRITE)
        self._claim_script = self._writer.register_script(_CLAIM)
        self._ping_script = self._writer.register_script(_PING)

    def _client(self, url: Secret, connections: int) -> Redis:
        try:
            return redis_client(url, connections=connections, timeout_s=self._timeout_s)
        except ValueError as error:
            raise ConfigurationError(f"the URL of store {self.name} is malformed") from error

    async def open(self) -> None:
        """Try the server once: a refused password or a server that belongs to another deployment stops the start, an
        unreachable server does not; met later, the latter counts as unavailable.
        """
        try:
            await self.ping()
        except StoreUnavailable as error:
            if self._foreign:
                raise ConfigurationError(f"REDIS_URL: {FOREIGN_HINT}") from error
            if isinstance(error.__cause__, AuthenticationError):
                raise ConfigurationError(f"store {self.name} refuses the user or password") from error

    async def claim(self, keys: Sequence[str], *, at_least: int = 0) -> list[int]:
        """Raise the fence of each key, by the server's clock. At most CHUNK keys are claimed in one step."""
        fences: list[int] = []
        for start in range(0, len(keys), CHUNK):
            answer = await self._run(self._claim_script, keys[start : start + CHUNK], [at_least])
            fences += [int(fence) for fence in answer]
        return fences

    async def write(self, writes: Sequence[Write]) -> list[Refusal]:
        """Write one chunk by one script."""
        if len(writes) > CHUNK:
            raise ValueError(f"more than {CHUNK} records in one write")
        if not writes:
            return []
        stamps = "".join([f"{write.fence:016d}{write.version:016d}" for write in writes])
        keys = [write.key for write in writes]
        answer = await self._run(self._write_script, keys, [stamps, *[write.document for write in writes]])
        return [
            Refusal(keys[index - 1], int(stamp[:_DIGITS]), int(stamp[_DIGITS:]))
            for index, stamp in zip(answer[::2], answer[1::2], strict=True)
        ]

    async def read(self, keys: Sequence[str]) -> list[Stored | None]:
        """Documents and stamps in one round trip."""
        if not keys:
            return []
        if self._foreign:
            raise StoreUnavailable(f"{self.name}: {FOREIGN_HINT}")
        async with self._translated(self._reader):
            values: list[Any] = await self._reader.mget([*keys, *[FENCE + key for key in keys]])
        documents, stamps = values[: len(keys)], values[len(keys) :]
        return [_stored(key, document, stamp) for key, document, stamp in zip(keys, documents, stamps, strict=True)]

    async def keys(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Keys of records with this prefix, sorted. Walks the key space: for listings and migration, not for reads."""
        pattern = "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in prefix) + "*"
        found: set[str] = set()
        async with self._translated(self._reader, factor=10):
            async for raw in self._reader.scan_iter(match=pattern, count=1000, _type="STRING"):
                key = raw.decode(errors="replace")
                if key > after and not key.startswith(SIDE):
                    found.add(key)
        return heapq.nsmallest(limit, found)

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove records; their fences stay."""
        await self._own()
        if keys:
            async with self._translated(self._writer):
                await self._writer.delete(*keys)

    async def forget(self, keys: Sequence[str]) -> None:
        """Remove records and their side keys."""
        await self._own()
        if keys:
            async with self._translated(self._writer):
                await self._writer.delete(*keys, *[FENCE + key for key in keys])

    async def ping(self) -> None:
        """A tiny write, which fails where a flush would fail."""
        await self._run(self._ping_script, [], [])

    async def _own(self) -> None:
        """Make sure that the server is ours, before what no script guards."""
        if self.deployment_id is not None:
            await self.ping()

    async def now_ms(self) -> int:
        """The server's clock, Unix ms (for `doctor`)."""
        async with self._translated(self._reader):
            seconds, micros = await self._reader.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def close(self) -> None:
        """Drop all connections."""
        for client in (self._writer, self._reader):
            await self._disconnect(client)

    async def _disconnect(self, client: Redis) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.connection_pool.disconnect()
        except TROUBLE:
            return  # what did not close in time is dropped with the object

    async def _run(self, script: Any, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run a script, loading it where the server does not know it (restart, SCRIPT FLUSH); notes the life."""
        async with self._translated(self._writer):
            call: Awaitable[list[Any]] = script(keys=keys, args=[*args, self.deployment_id or ""])
            try:
                life, *answer = await call
            except ResponseError as error:
                if str(error).startswith("FOREIGN"):
                    self._told_foreign()
                    raise StoreUnavailable(f"{self.name}: {FOREIGN_HINT}") from error
                raise
        self._foreign = False
        self.generation = life.decode()
        return answer

    def _told_foreign(self) -> None:
        if not self._foreign:
            log.error("store refused: %s", FOREIGN_HINT, extra={"store": self.name})
        self._foreign = True

    @asynccontextmanager
    async def _translated(self, client: Redis, *, factor: int = 1) -> AsyncIterator[None]:
        """The deadline, and the one place where this library's errors become ours."""
        try:
            async with asyncio.timeout(self._timeout_s * factor):
                yield
        except ReadOnlyError as error:
            # A failover made this server a replica: look up the address anew.
            await self._disconnect(client)
            raise StoreUnavailable(f"{self.name}: {error}") from error
        except TROUBLE as error:
            raise StoreUnavailable(f"{self.name}: {type(error).__name__} {error}"[:200]) from error


def _stored(key: str, document: bytes | None, stamp: bytes | None) -> Stored | None:
    """What a key holds; a record without a stamp of ours counts as older than anything."""
    fence = version = 0
    if stamp is not None and len(stamp) == _STAMP and stamp.isdigit():
        fence, version = int(stamp[:_DIGITS]), int(stamp[_DIGITS:])
    elif document is None:
        return None
    return Stored(key, fence, version, document or b"")
