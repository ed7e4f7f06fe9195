"""Desired sessions in Postgres: tables `bridge_sessions` and `bridge_default_accounts`. All their SQL is here.

Commands of one user are serialised by a lock on the user's row, held to the end of the transaction, so that several
processes agree on one order. Times and idle ends go by the database's clock. Invariant: what a method has returned is
committed; what it raised may be, and every call may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bridge.brokers.base import Environment, ReasonCode
from bridge.db.database import Connection, Database, Row
from bridge.db.notices import EVERYBODY, notify
from bridge.db.users import ensure_user, find_user
from bridge.sessions.defaults import DefaultAccount
from bridge.sessions.desired import AlreadyWanted, Identity, Known, Note, Start, Started, StoredSession
from bridge.sessions.ownership.fencing import RecordFences
from bridge.sessions.rows import IN_ORDER, SELECT, stored

NOTES_AT_ONCE = 500
_FIRST = ("", "", "")

_AFTER = "(s.user_key, s.broker, s.account_id) > ($1, $2, $3)"
_OF_BROKER = f"{SELECT} where s.user_key = $1 and s.broker = $2 {IN_ORDER}"
_OF_USER = f"{SELECT} where s.user_key = $1 {IN_ORDER}"
_OWN = "($5::text is null or s.owner = $5)"
_WANTED = f"{SELECT} where {_AFTER} and {_OWN} and s.wanted and s.at_risk = $6 {IN_ORDER} limit $4"
_OWING = f"{SELECT} where {_AFTER} and {_OWN} and s.owes_record {IN_ORDER} limit $4"
_CHANGED = f"""
{SELECT} where s.owner = $1 and s.changed_at > clock_timestamp() - make_interval(secs => $2) {IN_ORDER}
"""
_PAGE = f"{SELECT} where {_AFTER} and ($5::text is null or s.broker = $5) {IN_ORDER} limit $4"
_TOTAL = "select count(*) from public.bridge_sessions where $1::text is null or broker = $1"
_ENDED = f"{SELECT} where {_AFTER} and not s.wanted and ($5::text is null or s.broker = $5) {IN_ORDER} limit $4"
_ENDED_TOTAL = "select count(*) from public.bridge_sessions where not wanted and ($1::text is null or broker = $1)"
_IDLE = f"""
{SELECT} where s.wanted and s.last_used_at < clock_timestamp() - make_interval(secs => $1)
  and ($3::text is null or s.owner = $3) {IN_ORDER} limit $2
"""
_DEFAULT = "select account_id, environment from public.bridge_default_accounts where user_key = $1 and broker = $2"
_REMEMBER = """
insert into public.bridge_default_accounts as d (user_key, broker, account_id, environment) values ($1, $2, $3, $4)
on conflict (user_key, broker) do update set environment = excluded.environment
  where d.account_id = excluded.account_id and d.environment <> excluded.environment
"""
_LOCK_USER = "select 1 from public.bridge_users where user_key = $1 for no key update"
# a command claims for the process that was asked what nobody serves
_START = """
insert into public.bridge_sessions as s (user_key, broker, account_id, environment, wanted, owner, fence)
values ($1, $2, $3, $4, true, public.bridge_session_owner(null, $5), public.bridge_session_fence(null, $5, 0))
on conflict (user_key, broker, account_id) do update set
  environment = excluded.environment, wanted = true, command = s.command + 1, reason = null, owes_record = false,
  started_at = case when s.wanted then s.started_at else clock_timestamp() end, stopped_at = null,
  last_used_at = clock_timestamp(), changed_at = clock_timestamp(),
  owner = public.bridge_session_owner(s.owner, $5), fence = public.bridge_session_fence(s.owner, $5, s.fence)
"""
_STOP = """
update public.bridge_sessions s
set wanted = false, command = s.command + 1, reason = $4, owes_record = true, stopped_at = clock_timestamp(),
  changed_at = clock_timestamp(),
  owner = public.bridge_session_owner(s.owner, $6), fence = public.bridge_session_fence(s.owner, $6, s.fence)
where s.user_key = $1 and s.broker = $2 and ($3::text is null or s.account_id = $3) and s.wanted
  and ($5::float8 is null or s.last_used_at < clock_timestamp() - make_interval(secs => $5))
"""
_RETRY = """
update public.bridge_sessions set command = command + 1, changed_at = clock_timestamp()
where user_key = $1 and broker = $2 and wanted
"""
_DELETE = "delete from public.bridge_sessions where user_key = $1 and broker = $2 and account_id = $3"
_NAME = "update public.bridge_sessions set account_id = $3 where user_key = $1 and broker = $2 and account_id = ''"
_NOTE = """
with notes as (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::float8[], $6::bigint[])
    as n (user_key, broker, account_id, at_risk, used_ago_s, recorded)
), locked as (
  select n.* from public.bridge_sessions s join notes n using (user_key, broker, account_id)
  order by s.user_key, s.broker, s.account_id for no key update of s
)
update public.bridge_sessions s set
  at_risk = coalesce(n.at_risk, s.at_risk),
  last_used_at = greatest(s.last_used_at, clock_timestamp() - make_interval(secs => n.used_ago_s)),
  owes_record = s.owes_record and n.recorded is distinct from s.command,
  owner = case when s.wanted or s.owes_record and n.recorded is distinct from s.command then s.owner end
from locked n
where (s.user_key, s.broker, s.account_id) = (n.user_key, n.broker, n.account_id)
"""
_USED = """
with uses as (select * from unnest($1::text[], $2::text[], $3::float8[]) as n (user_key, broker, used_ago_s)),
locked as (
  select s.user_key, s.broker, s.account_id, n.used_ago_s
  from public.bridge_sessions s join uses n using (user_key, broker)
  order by s.user_key, s.broker, s.account_id for no key update of s
)
update public.bridge_sessions s
set last_used_at = greatest(s.last_used_at, clock_timestamp() - make_interval(secs => n.used_ago_s))
from locked n
where (s.user_key, s.broker, s.account_id) = (n.user_key, n.broker, n.account_id)
"""


class DurableSessions:
    """A `DesiredSessions` in the database. `fences`: raises those of records when a command claims a session."""

    shared = True

    def __init__(self, database: Database, *, fences: RecordFences | None = None) -> None:
        self._database = database
        self._fences = fences

    async def known(self, user_key: str, broker: str) -> Known:
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_OF_BROKER, user_key, broker)
            return Known(await _default(connection, user_key, broker), tuple(map(stored, rows)))

    async def start(self, start: Start, *, owner: str | None = None) -> Started:
        account_id, where = start.account_id or "", (start.user_key, start.broker)
        async with self._database.transaction() as connection:
            await ensure_user(connection, start.user_key, start.user_id)
            rows = await _locked(connection, *where)
            named = rows.get(account_id)
            replaced = bool(account_id) and "" in rows and not (named and named.wanted)
            if replaced:
                await connection.execute(_DELETE, *where, "")
            if account_id:
                await connection.execute(_REMEMBER, *where, account_id, start.environment.value)
            await connection.execute(_START, *where, account_id, start.environment.value, owner)
            row = next(
                row for row in map(stored, await connection.fetch(_OF_BROKER, *where)) if row.identity[2] == account_id
            )
            await self._follow_claims(connection, rows, [row])
            await _tell_owners(connection, [row, *([rows[""]] if replaced else [])], owner)
            return Started(row, await _default(connection, *where), replaced)

    async def stop(
        self,
        user_key: str,
        broker: str,
        account_id: str | None,
        *,
        reason: ReasonCode = ReasonCode.STOPPED,
        idle_for_s: float | None = None,
        owner: str | None = None,
    ) -> list[StoredSession]:
        async with self._database.transaction() as connection:
            before = await _locked(connection, user_key, broker)
            await connection.execute(_STOP, user_key, broker, account_id, reason.value, idle_for_s, owner)
            rows = list(map(stored, await connection.fetch(_OF_BROKER, user_key, broker)))
            await self._follow_claims(connection, before, rows)
            await _tell_owners(connection, [row for row in rows if row != before.get(row.identity[2])], owner)
            return [row for row in rows if account_id is None or row.identity[2] == account_id]

    async def retry(self, user_key: str, broker: str) -> list[StoredSession]:
        async with self._database.transaction() as connection:
            await _locked(connection, user_key, broker)
            await connection.execute(_RETRY, user_key, broker)
            rows = map(stored, await connection.fetch(_OF_BROKER, user_key, broker))
            wanted = [row for row in rows if row.wanted]
            await _tell_owners(connection, wanted, None)
            return wanted

    async def _follow_claims(
        self, connection: Connection, before: Mapping[str, StoredSession], rows: Iterable[StoredSession]
    ) -> None:
        """Of the rows that there were before, those that have another owner now."""
        claimed = [row for row in rows if (old := before.get(row.identity[2])) is not None and old.fence < row.fence]
        if self._fences is not None and claimed:
            await self._fences.follow(connection, claimed)

    async def resolve(self, user_key: str, broker: str, found: DefaultAccount) -> DefaultAccount:
        async with self._database.transaction() as connection:
            rows = await _locked(connection, user_key, broker)
            row, other = rows.get(""), rows.get(found.account_id)
            # without a row of its own, a wanted one of that name is what an earlier, unanswered call has made of it
            if (row is not None) is (other is not None and other.wanted):
                raise AlreadyWanted("the account has a session of its own")
            if row is not None:
                await connection.execute(_DELETE, user_key, broker, found.account_id)
                await connection.execute(_NAME, user_key, broker, found.account_id)
            await connection.execute(_REMEMBER, user_key, broker, found.account_id, found.environment.value)
            return await _default(connection, user_key, broker) or found

    async def wanted(
        self, *, at_risk: bool, after: Identity | None, limit: int, owner: str | None = None
    ) -> list[StoredSession]:
        return list(map(stored, await self._database.fetch(_WANTED, *(after or _FIRST), limit, owner, at_risk)))

    async def owing(self, *, after: Identity | None, limit: int, owner: str | None = None) -> list[StoredSession]:
        return list(map(stored, await self._database.fetch(_OWING, *(after or _FIRST), limit, owner)))

    async def changed(self, owner: str, within_s: float) -> list[StoredSession]:
        return list(map(stored, await self._database.fetch(_CHANGED, owner, within_s)))

    async def page(self, *, broker: str | None, after: Identity | None, limit: int) -> tuple[list[StoredSession], int]:
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_PAGE, *(after or _FIRST), limit, broker)
            total: int = await connection.fetchval(_TOTAL, broker)
            return list(map(stored, rows)), total

    async def ended(self, *, broker: str | None, after: Identity | None, limit: int) -> tuple[list[StoredSession], int]:
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_ENDED, *(after or _FIRST), limit, broker)
            total: int = await connection.fetchval(_ENDED_TOTAL, broker)
            return list(map(stored, rows)), total

    async def of_user(self, key: str) -> list[StoredSession]:
        user = await find_user(self._database, key)
        return [] if user is None else list(map(stored, await self._database.fetch(_OF_USER, user.user_key)))

    async def idle(self, idle_for_s: float, limit: int, *, owner: str | None = None) -> list[StoredSession]:
        return list(map(stored, await self._database.fetch(_IDLE, idle_for_s, limit, owner)))

    async def note(self, notes: Sequence[Note]) -> None:
        for start in range(0, len(notes), NOTES_AT_ONCE):
            await self._database.execute(_NOTE, *_columns(notes[start : start + NOTES_AT_ONCE]))

    async def used(self, uses: Sequence[tuple[str, str, float]]) -> None:
        for start in range(0, len(uses), NOTES_AT_ONCE):
            columns = zip(*uses[start : start + NOTES_AT_ONCE], strict=True)
            await self._database.execute(_USED, *(list(column) for column in columns))

    async def erase(self, user_key: str) -> None:
        async with self._database.transaction() as connection:
            await erase_rows(connection, user_key)

    # ------------------------------------------------------------ for a user's export and erasure, in any process

    async def export(self, user_key: str) -> dict[str, list[dict[str, Any]]]:
        """What is stored of a user here, as plain values for JSON (times in ISO 8601)."""
        async with self._database.transaction() as connection:
            return {
                table: [_plain(row) for row in await connection.fetch(sql, user_key)] for table, sql in _EXPORTS.items()
            }

    async def stop_user(self, user_key: str) -> None:
        """Store that no session of the user is wanted, from any process; the one that serves them follows.

        `unsettled` tells when it has.
        """
        async with self._database.transaction() as connection:
            await connection.execute(_LOCK_USER, user_key)
            await connection.execute(_STOP_USER, user_key)
            await notify(connection)

    async def unsettled(self, user_key: str) -> int:
        """How many sessions of the user are wanted, or have ended without their last record written."""
        count: int = await self._database.fetch_value(_UNSETTLED, user_key)
        return count


_EXPORTS = {
    "sessions": """
        select broker, nullif(account_id, '') as account_id, environment, wanted, reason, at_risk, created_at,
          started_at, stopped_at, last_used_at
        from public.bridge_sessions where user_key = $1 order by broker, account_id
    """,
    "defaultAccounts": """
        select broker, account_id, environment, created_at
        from public.bridge_default_accounts where user_key = $1 order by broker
    """,
}
_STOP_USER = """
update public.bridge_sessions
set wanted = false, command = command + 1, reason = 'stopped', owes_record = true, stopped_at = clock_timestamp(),
  changed_at = clock_timestamp()
where user_key = $1 and wanted
"""
_UNSETTLED = "select count(*) from public.bridge_sessions where user_key = $1 and (wanted or owes_record)"


async def erase_rows(connection: Connection, user_key: str) -> None:
    """Delete every row of a user, within the caller's transaction. A running session ends when its process notices."""
    await connection.execute("delete from public.bridge_sessions where user_key = $1", user_key)
    await connection.execute("delete from public.bridge_default_accounts where user_key = $1", user_key)


async def rekey_rows(connection: Connection, old_key: str, new_key: str) -> None:
    """Move every row of a user to another key, within the caller's transaction, before or after the user's own row.

    No process may be serving the user meanwhile.
    """
    await connection.execute("update public.bridge_sessions set user_key = $2 where user_key = $1", old_key, new_key)
    await connection.execute(
        "update public.bridge_default_accounts set user_key = $2 where user_key = $1", old_key, new_key
    )


async def _locked(connection: Connection, user_key: str, broker: str) -> dict[str, StoredSession]:
    """A user's rows at a broker by account id, the user locked first."""
    await connection.execute(_LOCK_USER, user_key)
    return {row.identity[2]: row for row in map(stored, await connection.fetch(_OF_BROKER, user_key, broker))}


async def _default(connection: Connection, user_key: str, broker: str) -> DefaultAccount | None:
    row = await connection.fetchrow(_DEFAULT, user_key, broker)
    return None if row is None else DefaultAccount(row["account_id"], Environment(row["environment"]))


async def _tell_owners(connection: Connection, rows: Iterable[StoredSession], asked: str | None) -> None:
    """Whoever serves a row that was commanded by another looks at it; everybody, when nobody serves it."""
    for whom in {row.owner for row in rows} - ({asked} if asked else set()):
        await notify(connection, whom or EVERYBODY)


def _columns(notes: Iterable[Note]) -> list[list[object]]:
    rows = ((*note.identity, note.at_risk, note.used_ago_s, note.recorded) for note in notes)
    return [list(column) for column in zip(*rows, strict=True)]


def _plain(row: Row) -> dict[str, Any]:
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}
