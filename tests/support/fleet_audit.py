"""An eye in the database on what several processes may never do, and on how long each session was away.

Triggers look at every record that is accepted and at every change of owner, at that moment and whatever the bridge
believes: they share no code with it. `LateWrite`: a record accepted under a fence below its session's, or not above the
record that it replaced. Times are the database's.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import redis

from tests.support.world import record_key

INSTALL = """
create table public.drill_late (
  key text, old_fence bigint, old_version bigint, fence bigint, version bigint, owned bigint,
  at timestamptz default clock_timestamp()
);
create table public.drill_status (key text, fence bigint, live boolean, at timestamptz default clock_timestamp());
create table public.drill_owners (
  user_key text, broker text, account_id text, owner text, fence bigint, old_fence bigint,
  at timestamptz default clock_timestamp()
);
create function public.drill_record() returns trigger language plpgsql security definer as $$
declare
  owned bigint;
  live boolean := new.document ->> 'status' is not distinct from 'live';
begin
  select s.fence into owned from public.bridge_sessions s
  where s.user_key = new.user_key and new.key = s.broker || '_account_' || s.user_key order by s.fence desc limit 1;
  if tg_op = 'UPDATE' and (new.fence, new.version) <= (old.fence, old.version)
      or new.version > 0 and new.fence < owned then
    insert into public.drill_late values (
      new.key, case tg_op when 'UPDATE' then old.fence end, case tg_op when 'UPDATE' then old.version end,
      new.fence, new.version, owned
    );
  end if;
  if new.version > 0 and (
    tg_op = 'INSERT' or old.version = 0 or live <> (old.document ->> 'status' is not distinct from 'live')
  ) then
    insert into public.drill_status values (new.key, new.fence, live);
  end if;
  return new;
end $$;
create trigger drill_record after insert or update on public.account_cache
  for each row execute function public.drill_record();
create function public.drill_owner() returns trigger language plpgsql security definer as $$
begin
  insert into public.drill_owners values (
    new.user_key, new.broker, new.account_id, new.owner, new.fence, case tg_op when 'UPDATE' then old.fence end
  );
  return new;
end $$;
create trigger drill_owner_first after insert on public.bridge_sessions
  for each row execute function public.drill_owner();
create trigger drill_owner after update on public.bridge_sessions
  for each row when (old.owner is distinct from new.owner or old.fence <> new.fence)
  execute function public.drill_owner();
"""
# of every wanted session: whether its owner has a lease and its record, written under that owner's fence, is fresh;
# a claimed record (version 0) still says what the owner before wrote
_SERVED = """
select s.broker, count(*) as wanted, count(*) filter (
  where s.owner <> all($1) and p.owner is not null and c.fence >= s.fence and c.version > 0
    and c.document ->> 'status' = 'live'
    and (c.document ->> 'staleAfter')::bigint > extract(epoch from clock_timestamp()) * 1000
) as live
from public.bridge_sessions s
left join public.bridge_processes p on p.owner = s.owner
left join public.account_cache c on c.key = s.broker || '_account_' || s.user_key
where s.wanted group by s.broker
"""
# fences that two processes had, and fences that fell
_TWICE = """
select user_key, broker, account_id, fence, array_agg(distinct owner) as owners from public.drill_owners
where owner is not null group by 1, 2, 3, 4 having count(distinct owner) > 1
"""
_FELL = "select * from public.drill_owners where fence < old_fence"
_CHANGES = """
select broker || '_account_' || user_key as key, count(*) as changes from public.drill_owners
where owner is not null and fence > old_fence and at between $1 and $2 group by 1
"""


@dataclass(frozen=True, slots=True)
class Away:
    """For how long a session was not live for its readers; `since` is when that began."""

    key: str
    since: datetime
    seconds: float


class Auditor:
    """Asks what the triggers have seen. One connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Auditor:
        self._connection = await asyncpg.connect(self._url, statement_cache_size=0)
        await self._connection.execute(INSTALL)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def now(self) -> datetime:
        found: datetime = (await self.rows("select clock_timestamp() as at"))[0]["at"]
        return found

    async def rows(self, sql: str, *arguments: object) -> list[Any]:
        async with self._turn:
            return list(await self._connection.fetch(sql, *arguments))

    async def served(self, *, but: Collection[str] = ()) -> dict[str, tuple[int, int]]:
        """By broker: wanted sessions, and those of them that a process other than `but` serves live and fresh."""
        rows = await self.rows(_SERVED, list(but))
        return {row["broker"]: (row["wanted"], row["live"]) for row in rows}

    async def late(self) -> list[tuple[Any, ...]]:
        """Writes that must not have been accepted."""
        return [tuple(row) for row in await self.rows("select * from public.drill_late")]

    async def twice_owned(self) -> list[tuple[Any, ...]]:
        """Fences that more than one process had, and fences that fell."""
        return [tuple(row) for row in [*await self.rows(_TWICE), *await self.rows(_FELL)]]

    async def owner_changes(self, begun: datetime, ended: datetime) -> Counter[int]:
        """How many sessions changed their owner how many times."""
        return Counter(row["changes"] for row in await self.rows(_CHANGES, begun, ended))

    async def away(self, begun: datetime, ended: datetime) -> list[Away]:
        """Every time that a record was not live, if it began in between."""
        found, since = [], {}
        for row in await self.rows("select * from public.drill_status where at >= $1 order by at", begun):
            key, at = row["key"], row["at"]
            if row["live"]:
                if key in since and since[key] <= ended:
                    found.append(Away(key, since[key], (at - since[key]).total_seconds()))
                since.pop(key, None)
            elif key not in since:
                since[key] = at
        return found

    async def back_after(self, moment: datetime, keys: Collection[str]) -> dict[str, float]:
        """When each of these records first became live after `moment`, or was claimed and written live, in seconds."""
        rows = await self.rows(
            "select key, min(at) as at from public.drill_status where live and at > $1 and key = any($2) group by key",
            moment,
            list(keys),
        )
        return {row["key"]: (row["at"] - moment).total_seconds() for row in rows}


class CopyWatch:
    """Reads fence and version of every record in Valkey again and again: they only grow."""

    def __init__(self, url: str, users: Mapping[str, Sequence[str]], every_s: float = 0.5) -> None:
        self._client = redis.Redis.from_url(url)
        self._keys = [record_key(user, broker) for broker, names in users.items() for user in names]
        self._every_s = every_s
        self._last: dict[str, bytes] = {}
        self.wrong: list[str] = []
        self.changes: defaultdict[str, int] = defaultdict(int)

    async def watch(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._compare(await asyncio.to_thread(self._client.mget, [f"pulse:fence:{key}" for key in self._keys]))
                await asyncio.sleep(self._every_s)  # the pace of the reader
        finally:
            self._client.close()

    def _compare(self, values: Any) -> None:
        for key, value in zip(self._keys, values, strict=True):
            last = self._last.get(key, b"")
            if value is None or value == last:
                continue
            if value < last:
                self.wrong.append(f"{key}: {value!r} after {last!r}")
            self.changes[key] += value[:16] != last[:16]
            self._last[key] = value
