"""Erases all that is stored of one user, also while a bridge serves them.

The sessions are stored as not wanted, and a running bridge is given time to end them. Then the rows go in one
transaction, and the records before and after it: a fence above every owner's stays behind, so that a process which was
away meanwhile is refused by the store. The audit log keeps its rows; whom they are about, nothing tells any more.
Everything may be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.credentials.user_data import erase_grants
from bridge.db.database import Database
from bridge.db.users import forget_user
from bridge.sessions.durable import DurableSessions, erase_rows
from bridge.telemetry.audit import Action, Detail
from bridge.user_data.places import Places
from bridge.user_data.records import find_keys, remove_records
from bridge.user_data.telling import accounts_in
from bridge.user_data.whom import Whom

WAIT_S = 45.0  # a running bridge looks every 20 s
LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Erased:
    """What was there. `settled`: no session was left that a bridge may still serve. `keys`: where fences stay."""

    records: int
    sessions: int
    grants: int
    known: bool
    settled: bool
    keys: Sequence[str]


async def erase(places: Places, whom: Whom, *, wait_s: float = WAIT_S, fences: bool = False) -> Erased:
    """Erase. `wait_s`: for a running bridge. `fences`: leave none, when no process that served the user is alive.

    Raises Unavailable at any step; run it again then, with every key of the user.
    """
    told = {} if places.database is None else await DurableSessions(places.database).export(whom.user_key)
    accounts = accounts_in(told)
    brokers = sorted({*places.brokers, *(broker for broker, _ in accounts)})
    settled = True if places.database is None else await _end_sessions(places, places.database, whom, wait_s)
    keys = await find_keys(places.stores, whom.keys, brokers, accounts)
    records = await remove_records(places.stores, keys)
    grants, known = 0, False
    if places.database is not None:
        grants, known = await _erase_rows(places, places.database, whom, records, len(told["sessions"]))
    await remove_records(places.stores, keys, fences=fences)
    return Erased(records, len(told.get("sessions", ())), grants, known, settled, keys)


async def _end_sessions(places: Places, database: Database, whom: Whom, wait_s: float) -> bool:
    """Store that nothing is wanted; wait until whoever serves the user has seen it. False when nobody did in time."""
    sessions = DurableSessions(database)
    await sessions.stop_user(whom.user_key)
    deadline = places.clock.monotonic() + wait_s
    while await sessions.unsettled(whom.user_key):
        if places.clock.monotonic() >= deadline:
            return False
        await asyncio.sleep(LOOK_S)
    return True


async def _erase_rows(places: Places, database: Database, whom: Whom, records: int, sessions: int) -> tuple[int, bool]:
    """Grants, consents, sessions, defaults and who the user is, in one transaction; how many grants, and whether there
    was anything."""
    async with database.transaction() as connection:
        grants = await erase_grants(connection, whom.user_key)
        await erase_rows(connection, whom.user_key)
        known = await forget_user(connection, whom.user_key)  # consents go with it
        if known or records:
            counts: Detail = {"records": records, "sessions": sessions, "grants": grants}
            await places.take_down(connection, Action.ERASE, None, counts)
    return grants, known
