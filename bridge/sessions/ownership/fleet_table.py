"""Ownership in Postgres: table `bridge_processes`, and the owner columns of `bridge_sessions`. All their SQL is here.

Works behind a transaction pooler: each call is one transaction. Who takes over a lease that has ended removes its row,
and a removed name never comes back; so a claim need only see that a row's owner has no process. Rows are locked in the
order of their identity, or skipped when somebody else has them. Invariant: what a method has returned is committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from bridge.db.database import Connection, Database, Row
from bridge.db.notices import EVERYBODY, notify
from bridge.sessions.desired import Identity, StoredSession
from bridge.sessions.ownership.fencing import RecordFences
from bridge.sessions.ownership.fleet import FleetLook, ProcessRow
from bridge.sessions.ownership.placing import chosen_process, named_process, someone_else_serves
from bridge.sessions.ownership.shares import Member, Reading, backlog
from bridge.sessions.rows import IN_ORDER, SELECT, stored
from core.errors import NotFound

LOOK_S = 3.0
MOVES_AT_ONCE = 100

_JOIN = """
insert into public.bridge_processes (owner, version, capacity, expires_at)
values ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))
on conflict (owner) do update set expires_at = excluded.expires_at
"""
_BURY = """
with told as (
  update public.bridge_processes set sessions = $2::json where owner = $1 and sessions::text <> $2::text
)
delete from public.bridge_processes where owner <> $1 and expires_at <= clock_timestamp() returning owner
"""
_RENEW = """
update public.bridge_processes
set expires_at = clock_timestamp() + make_interval(secs => $2), renewed_at = clock_timestamp()
where owner = $1 returning owner
"""
_PROCESSES = """
select p.owner, p.version, p.capacity, p.draining, p.sessions::text as sessions, coalesce(n.load, 0) as load,
  (extract(epoch from p.started_at) * 1000)::bigint as started_at_ms,
  (extract(epoch from p.renewed_at) * 1000)::bigint as renewed_at_ms,
  (extract(epoch from p.expires_at - clock_timestamp()) * 1000)::bigint as left_ms,
  (extract(epoch from clock_timestamp() - p.started_at))::float8 as age_s
from public.bridge_processes p
left join (
  select s.owner, count(*) as load from public.bridge_sessions s
  where (s.wanted or s.owes_record) and ($1::text[] is null or s.broker = any($1)) group by s.owner
) n on n.owner = p.owner
order by p.started_at, p.owner
"""
# what nobody owns, less what an operator wants at another process that takes sessions
_FREE = """
(s.wanted or s.owes_record) and s.broker = any($2)
and not exists (select from public.bridge_processes p where p.owner = s.owner)
and (
  s.move_to is null or s.move_to = $1
  or not exists (select from public.bridge_processes p where p.owner = s.move_to and not p.draining)
)
"""
_FREE_COUNTS = f"""
select count(*) as free, count(*) filter (where s.move_to = $1) as reserved from public.bridge_sessions s where {_FREE}
"""  # noqa: S608  made of constants
_UNOWNED = """
select count(*) from public.bridge_sessions s
where (s.wanted or s.owes_record) and not exists (select from public.bridge_processes p where p.owner = s.owner)
"""
_MOVES = """
select s.user_key, s.broker, s.account_id from public.bridge_sessions s
where s.owner = $1 and s.move_to <> $1 and (s.wanted or s.owes_record)
  and exists (select from public.bridge_processes p where p.owner = s.move_to) limit $2
"""
# `for key share` keeps the lease from being taken away until the claim is committed. A row that somebody else claims
# after we have seen it as free has another fence by the time we lock it: compared on the row itself, because the search
# for owners without a process is not made again for the newer row.
_CLAIM = f"""
with me as materialized (
  select p.owner from public.bridge_processes p
  where p.owner = $1 and p.expires_at > clock_timestamp() for key share
), seen as materialized (
  select s.user_key, s.broker, s.account_id, s.owner, s.fence, row_number() over (
    order by (s.move_to is not distinct from $1) desc, s.at_risk desc, s.wanted desc, s.user_key, s.broker, s.account_id
  ) as place
  from public.bridge_sessions s where exists (select from me) and {_FREE}
  order by place limit $3 * 4
), found as (
  select s.user_key, s.broker, s.account_id
  from public.bridge_sessions s join seen n using (user_key, broker, account_id)
  where s.fence = n.fence and s.owner is not distinct from n.owner
  order by n.place limit $3 for update of s skip locked
)
update public.bridge_sessions s
set owner = $1, fence = public.bridge_raised_fence(s.fence), move_to = null, changed_at = clock_timestamp()
from found f where (s.user_key, s.broker, s.account_id) = (f.user_key, f.broker, f.account_id)
returning s.user_key, s.broker, s.account_id
"""  # noqa: S608  made of constants
_NAMED = "select * from unnest($2::text[], $3::text[], $4::text[]) as n (user_key, broker, account_id)"
_RECLAIM = f"""
with me as materialized (
  select p.owner from public.bridge_processes p
  where p.owner = $1 and p.expires_at > clock_timestamp() for key share
), held as (
  select s.user_key, s.broker, s.account_id from public.bridge_sessions s
  join ({_NAMED}) n using (user_key, broker, account_id)
  where s.owner = $1 and exists (select from me)
  order by s.user_key, s.broker, s.account_id for no key update of s
)
update public.bridge_sessions s set fence = public.bridge_raised_fence(s.fence), changed_at = clock_timestamp()
from held h where (s.user_key, s.broker, s.account_id) = (h.user_key, h.broker, h.account_id)
returning s.user_key, s.broker, s.account_id
"""  # noqa: S608  made of constants
_RELEASE = f"""
with held as (
  select s.user_key, s.broker, s.account_id from public.bridge_sessions s
  join ({_NAMED}) n using (user_key, broker, account_id)
  where s.owner = $1 order by s.user_key, s.broker, s.account_id for no key update of s
)
update public.bridge_sessions s set owner = null, changed_at = clock_timestamp()
from held h where (s.user_key, s.broker, s.account_id) = (h.user_key, h.broker, h.account_id)
"""  # noqa: S608  made of constants
_LEAVE = "delete from public.bridge_processes where owner = $1"
_DRAIN = "update public.bridge_processes set draining = $2 where owner = $1"
_MOVE = """
with held as (
  select s.user_key, s.broker, s.account_id from public.bridge_sessions s
  where s.user_key = $1 and ($2::text is null or s.broker = $2) and ($3::text is null or s.account_id = $3) and s.wanted
  order by s.user_key, s.broker, s.account_id for no key update of s
)
update public.bridge_sessions s set move_to = nullif($4, s.owner), changed_at = clock_timestamp()
from held h where (s.user_key, s.broker, s.account_id) = (h.user_key, h.broker, h.account_id)
returning s.user_key, s.broker, s.account_id
"""
_ROWS = f"""
{SELECT} join unnest($1::text[], $2::text[], $3::text[]) as n (user_key, broker, account_id)
  on (s.user_key, s.broker, s.account_id) = (n.user_key, n.broker, n.account_id) {IN_ORDER}
"""


class FleetTable:
    """A `Fleet` in the database. `leases`: the pool for joining, renewing and leaving, so that no other work keeps a
    lease from being renewed; `database`: the pool for the rest. `fences`: raises those of records with every claim."""

    def __init__(
        self, database: Database, leases: Database | None = None, *, fences: RecordFences | None = None
    ) -> None:
        self._database = database
        self._fences = fences
        self._leases = leases or database
        self._buried: list[str] = []  # since the last look that came through

    async def join(self, owner: str, *, version: str, capacity: int, ttl_s: float) -> None:
        await self._leases.execute(_JOIN, owner, version, capacity, ttl_s, timeout_s=LOOK_S)

    async def renew(self, owner: str, *, ttl_s: float) -> bool:
        return bool(await self._leases.fetch(_RENEW, owner, ttl_s, timeout_s=LOOK_S))

    async def look(self, owner: str, *, brokers: Sequence[str], sessions: Mapping[str, int] | None = None) -> FleetLook:
        told = None if sessions is None else orjson.dumps(sessions).decode()
        # committed before sessions are read: whoever waits for those would keep a lease from being renewed
        self._buried += [row["owner"] for row in await self._database.fetch(_BURY, owner, told, timeout_s=LOOK_S)]
        async with self._database.transaction(timeout_s=LOOK_S) as connection:
            rows = await connection.fetch(_PROCESSES, list(brokers))
            counts = await connection.fetchrow(_FREE_COUNTS, owner, list(brokers))
            moves = await connection.fetch(_MOVES, owner, MOVES_AT_ONCE)
            unowned: int = await connection.fetchval(_UNOWNED)
        buried, self._buried = tuple(self._buried), []
        assert counts is not None  # noqa: S101  an aggregate has one row
        return FleetLook(
            reading=Reading(
                tuple(map(_member, rows)),
                sum(row["load"] for row in rows) + unowned,
                counts["free"],
                counts["reserved"],
            ),
            processes=tuple(map(_process, rows)),
            alive=any(row["owner"] == owner for row in rows),
            moves=tuple((row["user_key"], row["broker"], row["account_id"]) for row in moves),
            buried=buried,
        )

    async def processes(self) -> tuple[list[ProcessRow], int]:
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_PROCESSES, None)
            unowned: int = await connection.fetchval(_UNOWNED)
            return list(map(_process, rows)), unowned

    async def claim(self, owner: str, *, brokers: Sequence[str], limit: int) -> list[StoredSession]:
        async with self._database.transaction() as connection:
            rows = await _rows(connection, await connection.fetch(_CLAIM, owner, list(brokers), limit))
            if self._fences is not None:
                await self._fences.follow(connection, rows)
        return sorted(rows, key=lambda row: (not row.at_risk, not row.wanted, row.identity))

    async def reclaim(self, owner: str, identities: Sequence[Identity]) -> list[StoredSession]:
        async with self._database.transaction() as connection:
            return await _rows(connection, await connection.fetch(_RECLAIM, owner, *_columns(identities)))

    async def release(self, owner: str, identities: Sequence[Identity]) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(_RELEASE, owner, *_columns(identities))
            await notify(connection)

    async def leave(self, owner: str) -> None:
        async with self._leases.transaction(timeout_s=LOOK_S) as connection:
            await connection.execute(_LEAVE, owner)
            await notify(connection)

    async def drain(self, owner: str, *, draining: bool) -> str:
        async with self._database.transaction() as connection:
            known = list(map(_member, await connection.fetch(_PROCESSES, None)))
            found = named_process(known, owner)
            if draining:
                someone_else_serves(known, found)
            await connection.execute(_DRAIN, found.owner, draining)
            await notify(connection, found.owner)
            return found.owner

    async def move(
        self, user_key: str, *, broker: str | None, account_id: str | None, to: str | None
    ) -> list[StoredSession]:
        async with self._database.transaction() as connection:
            known = list(map(_member, await connection.fetch(_PROCESSES, None)))
            owners = await connection.fetch(
                "select owner from public.bridge_sessions where user_key = $1 and wanted", user_key
            )
            target = chosen_process(known, to, serving={row["owner"] for row in owners})
            rows = await _rows(connection, await connection.fetch(_MOVE, user_key, broker, account_id, target.owner))
            if not rows:
                raise NotFound("no such session is wanted")
            for whom in {row.owner for row in rows}:
                await notify(connection, whom or EVERYBODY)
            return rows


async def _rows(connection: Connection, found: Sequence[Row]) -> list[StoredSession]:
    if not found:
        return []
    identities = [(row["user_key"], row["broker"], row["account_id"]) for row in found]
    return list(map(stored, await connection.fetch(_ROWS, *_columns(identities))))


def _columns(identities: Sequence[Identity]) -> list[list[str]]:
    return [list(column) for column in zip(*identities, strict=True)] if identities else [[], [], []]


def _member(row: Row) -> Member:
    return Member(
        *(row["owner"], row["capacity"], row["load"], row["draining"]),
        age_s=row["age_s"],
        left_s=row["left_ms"] / 1000,
        backlog=backlog(row["load"], orjson.loads(row["sessions"])),
    )


def _process(row: Row) -> ProcessRow:
    values = {name: row[name] for name in ProcessRow.__slots__}
    return ProcessRow(**{**values, "sessions": orjson.loads(row["sessions"])})
