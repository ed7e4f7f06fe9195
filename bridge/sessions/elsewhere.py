"""Sessions that another process serves, as far as the database and their records tell. Reads only.

What is not known here is None, never a guess: attempts, reconnects, events and uptime are the serving process's own
figures. A record that its owner no longer renews is never shown as live.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import orjson

from bridge.brokers.base import Reason, ReasonCode
from bridge.cache.record import RecordStatus, is_fresh
from bridge.cache.store import Stored
from bridge.runtime.clock import Clock
from bridge.sessions import reactions
from bridge.sessions.defaults import keys_of_row
from bridge.sessions.desired import StoredSession
from bridge.sessions.standing import Standing
from bridge.sessions.states import State
from bridge.sessions.views import SessionView

LOOK_EVERY_S = 0.25
_STATES = {RecordStatus.STARTING.value: State.WAITING.value}
_WAITED_FOR = (RecordStatus.LIVE.value, RecordStatus.ACTION_REQUIRED.value)
_NOT_RENEWED = Reason(
    ReasonCode.STARTING, "The process that serves it has not renewed the record; another one takes over if it is gone."
)


class Records(Protocol):
    """Where records are read. Never raises: what no store answers for is None."""

    async def many(self, keys: Sequence[str]) -> list[Stored | None]:
        """The newest record known under each key."""


class Elsewhere:
    """Views of stored rows without a session here. `records` None: nothing is known of what others serve."""

    def __init__(self, standing: Standing, records: Records | None, clock: Clock) -> None:
        self._standing = standing
        self._records = records
        self._clock = clock

    async def views(self, rows: Sequence[StoredSession]) -> list[SessionView]:
        """Each row as listed."""
        keys = [_key(row) for row in rows]
        asked = [key for row, key in zip(rows, keys, strict=True) if key is not None and row.wanted]
        found: dict[str, Stored | None] = {}
        if self._records is not None and self._standing.shared and asked:
            found = dict(zip(asked, await self._records.many(asked), strict=True))
        return [self._view(row, key, found.get(key or "")) for row, key in zip(rows, keys, strict=True)]

    async def settled(self, view: SessionView, timeout_s: float) -> SessionView:
        """Wait until the record says that the session is live or, newly, that it needs its user; at most so long."""
        if view.cache_key is None or self._records is None or view.status == RecordStatus.STOPPED.value:
            return view
        latest, deadline = view, self._clock.monotonic() + timeout_s
        while True:
            stored = (await self._records.many([view.cache_key]))[0]
            latest = self._told(view, stored)
            newer = ((latest.fence or 0), latest.version) > ((view.fence or 0), view.version)
            if latest.status == RecordStatus.LIVE.value or (newer and latest.status in _WAITED_FOR):
                return latest
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0:
                return latest
            await asyncio.sleep(min(LOOK_EVERY_S, left_s))

    def _view(self, row: StoredSession, key: str | None, stored: Stored | None) -> SessionView:
        state = State.WAITING if row.wanted else State.STOPPED
        known = not row.wanted or not self._standing.shared  # what has ended has no figures any more
        view = SessionView(
            serial=0,
            user_key=row.user_key,
            broker=row.broker,
            environment=row.environment.value,
            account_id=row.account_id,
            status=(RecordStatus.STARTING if row.wanted else RecordStatus.STOPPED).value,
            state=state.value,
            reason=self._reason(row),
            since=row.stopped_at_ms or row.started_at_ms,
            next_attempt_at=None,
            attempts=0 if known else None,
            reconnects=0 if known else None,
            events=0 if known else None,
            last_event_at=None,
            last_flush_at=None,
            uptime_percent=0.0 if known else None,
            owner=row.owner if self._standing.shared else self._standing.owner,
            fence=row.fence or None,
            version=0,
            cache_key=key,
        )
        return self._told(view, stored) if row.wanted else view

    def _reason(self, row: StoredSession) -> Reason:
        if not row.wanted:
            return reactions.ENDS[row.ended or ReasonCode.STOPPED]
        return reactions.UNSERVED if self._standing.shared and row.owner is None else reactions.STARTING

    def _told(self, view: SessionView, stored: Stored | None) -> SessionView:
        """The view, with what the record tells of this very account."""
        record = _read(stored)
        if stored is None or record is None or record.get("accountId") != view.account_id:
            return view
        status, reason = record.get("status"), record.get("reason")
        if status == RecordStatus.STOPPED.value or status not in {each.value for each in RecordStatus}:
            return view  # of an earlier life
        told = replace(
            view,
            status=status,
            state=_STATES.get(status, status),
            reason=_reason_of(reason),
            fence=stored.fence,
            version=stored.version,
            last_event_at=record.get("lastUpdate"),
            last_flush_at=record.get("_cacheTimestamp"),
        )
        if status == RecordStatus.LIVE.value and not is_fresh(status, record.get("staleAfter"), self._clock.now_ms()):
            return replace(told, status=RecordStatus.STALE.value, state=RecordStatus.STALE.value, reason=_NOT_RENEWED)
        return told


def _key(row: StoredSession) -> str | None:
    keys = keys_of_row(row.broker, (row.user_key,), row.account_id, row.default_account)
    return keys[0] if keys else None


def _read(stored: Stored | None) -> Mapping[str, Any] | None:
    if stored is None or not stored.document:
        return None
    try:
        found = orjson.loads(stored.document)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _reason_of(found: object) -> Reason | None:
    if not isinstance(found, dict) or found.get("code") not in {each.value for each in ReasonCode}:
        return None
    return Reason(ReasonCode(found["code"]), str(found.get("message", "")))
