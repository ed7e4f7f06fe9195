"""The table `bridge_audit` (migration 0006): rows are added at its end and read in order. All its SQL is here.

Appending takes one lock for all processes, held to the end of the caller's transaction, so that together they make one
chain. Invariants: an entry is in the log once, however often it is appended; a user is named by their audit id only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from bridge.audit.chain import ChainRow, Entry, Head, Sealer, link
from bridge.db.database import Connection, Database, Row
from bridge.db.locks import lock_id
from core.errors import ConfigurationError

PAGE = 1000
LOCK = "audit"

_LOCK = "select pg_advisory_xact_lock($1)"
_HEAD = "select seq, hash from public.bridge_audit_head"
_KNOWN = "select id::text from public.bridge_audit where id = any($1::uuid[])"
_SUBJECTS = "select user_key, audit_id::text from public.bridge_users where user_key = any($1::text[])"
_INSERT = """
insert into public.bridge_audit
  (seq, id, at, actor, action, subject, outcome, detail, request_id, prev_hash, hash, seal_key_id, seal)
select n.seq, n.id, 'epoch'::timestamptz + n.at_us * interval '1 microsecond', n.actor, n.action, n.subject, n.outcome,
  n.detail::json, n.request_id, n.prev_hash, n.hash, n.seal_key_id, n.seal
from unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::text[],
  $9::text[], $10::bytea[], $11::bytea[], $12::text[], $13::bytea[])
  as n (seq, id, at_us, actor, action, subject, outcome, detail, request_id, prev_hash, hash, seal_key_id, seal)
"""
_SELECT = """
select a.seq, a.id::text as id, (extract(epoch from a.at) * 1000000)::bigint as at_us, a.actor, a.action,
  a.subject::text as subject, a.outcome, a.detail::text as detail, a.request_id, a.prev_hash, a.hash, a.seal_key_id,
  a.seal, h.seq as head_seq, h.hash as head_hash
from public.bridge_audit_head h
"""
_PAGE = f"""
{_SELECT}
left join lateral (select * from public.bridge_audit where seq > $1 order by seq limit $2) a on true order by a.seq
"""  # noqa: S608  no values in it
_LAST = f"""
{_SELECT}
join lateral (select * from public.bridge_audit order by seq desc limit $1) a on true order by a.seq
"""  # noqa: S608  no values in it
_OF_SUBJECT = f"""
{_SELECT}
join lateral (
  select * from public.bridge_audit where subject = $1::uuid and seq > $2 order by seq limit $3
) a on true order by a.seq
"""  # noqa: S608  no values in it
_FIRST = "select seq - 1 as seq, prev_hash as hash from public.bridge_audit order by seq limit 1"


@dataclass(frozen=True, slots=True)
class Pending:
    """An entry on its way, and the canonical key of the user whom it is about."""

    entry: Entry
    user_key: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in order, and the head at the same moment; None: there is none."""

    rows: list[ChainRow]
    head: Head | None


async def append(connection: Connection, pending: Sequence[Pending], sealer: Sealer) -> Head:
    """Add what is not in the log yet, within the caller's transaction; returns the head that was there before.

    Takes the lock: call it last.
    """
    await connection.execute(_LOCK, lock_id(LOCK))
    before = _head(await connection.fetchrow(_HEAD)) or Head()
    known = {row["id"] for row in await connection.fetch(_KNOWN, [each.entry.id for each in pending])}
    new = [each for each in pending if each.entry.id not in known]
    keys = sorted({each.user_key for each in new if each.user_key is not None})
    found = await connection.fetch(_SUBJECTS, keys) if keys else []
    subjects = {row["user_key"]: row["audit_id"] for row in found}
    entries = [replace(each.entry, subject=subjects.get(each.user_key or "")) for each in new]
    if entries:
        await connection.execute(_INSERT, *_columns(link(before, entries, sealer)))
    return before


async def check_sealer(database: Database, sealer: Sealer) -> None:
    """Raise ConfigurationError when rows are sealed and we could not seal ours."""
    last = await last_rows(database, 1)
    if last and last[0].seal is not None and not sealer:
        raise ConfigurationError("TOKEN_ENCRYPTION_KEYS: is needed, the rows of the audit log are sealed with it")


async def pages(database: Database, *, after: int) -> AsyncIterator[Page]:
    """The log from behind row `after`; the last page is the only one that is not full."""
    while True:
        rows = await database.fetch(_PAGE, after, PAGE)
        head = Head(rows[0]["head_seq"], rows[0]["head_hash"]) if rows else None
        page = Page([_row(row) for row in rows if row["seq"] is not None], head)
        yield page
        if len(page.rows) < PAGE:
            return
        after = page.rows[-1].seq


async def last_rows(database: Database, limit: int) -> list[ChainRow]:
    """The last rows, oldest first."""
    return [_row(row) for row in await database.fetch(_LAST, limit)]


async def before_first(database: Database) -> Head:
    """What the first row that is there says it follows."""
    return _head(await database.fetch_row(_FIRST)) or Head()


async def rows_of(connection: Connection, audit_id: str) -> list[dict[str, Any]]:
    """What the log holds of a user, as plain values for JSON."""
    found: list[dict[str, Any]] = []
    after = 0
    while True:
        rows = [_row(row) for row in await connection.fetch(_OF_SUBJECT, audit_id, after, PAGE)]
        found += [_plain(row) for row in rows]
        if len(rows) < PAGE:
            return found
        after = rows[-1].seq


def _plain(row: ChainRow) -> dict[str, Any]:
    entry = row.entry
    return {
        "seq": row.seq,
        "at": entry.at_us // 1000,
        "actor": entry.actor,
        "action": entry.action,
        "outcome": entry.outcome,
        "detail": orjson.loads(entry.detail),
    }


def _columns(rows: Sequence[ChainRow]) -> tuple[list[Any], ...]:
    return (
        [row.seq for row in rows],
        [row.entry.id for row in rows],
        [row.entry.at_us for row in rows],
        [row.entry.actor for row in rows],
        [row.entry.action for row in rows],
        [row.entry.subject for row in rows],
        [row.entry.outcome for row in rows],
        [row.entry.detail for row in rows],
        [row.entry.request_id for row in rows],
        [row.prev_hash for row in rows],
        [row.hash for row in rows],
        [row.seal_key_id for row in rows],
        [row.seal for row in rows],
    )


def _head(row: Row | None) -> Head | None:
    return None if row is None else Head(row["seq"], row["hash"])


def _row(row: Row) -> ChainRow:
    entry = Entry(
        id=row["id"],
        at_us=row["at_us"],
        actor=row["actor"],
        action=row["action"],
        subject=row["subject"],
        outcome=row["outcome"],
        detail=row["detail"],
        request_id=row["request_id"],
    )
    return ChainRow(row["seq"], entry, row["prev_hash"], row["hash"], row["seal_key_id"], row["seal"])
