"""Desired sessions for the life of the process: what runs without a database, and the reference of the protocol.

Keeps every row that was ever started, without its session; nothing here waits or fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bridge.brokers.base import ReasonCode
from bridge.runtime.clock import Clock
from bridge.sessions.defaults import DefaultAccount
from bridge.sessions.desired import AlreadyWanted, Identity, Known, Note, Start, Started, StoredSession
from core.errors import Conflict
from core.user_key import UserKeyScheme

_PLAIN = UserKeyScheme()


class DesiredInMemory:
    """A `DesiredSessions` in two dictionaries. Idle times go by the injected clock."""

    shared = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows: dict[Identity, StoredSession] = {}
        self._defaults: dict[tuple[str, str], DefaultAccount] = {}

    async def known(self, user_key: str, broker: str) -> Known:
        return Known(self._defaults.get((user_key, broker)), tuple(self._of(user_key, broker)))

    async def start(self, start: Start) -> Started:
        identity = (start.user_key, start.broker, start.account_id or "")
        row, unknown = self._rows.get(identity), (start.user_key, start.broker, "")
        replaced = start.account_id is not None and unknown in self._rows and not (row and row.wanted)
        if replaced:
            del self._rows[unknown]
        default = None
        if start.account_id is not None:
            default = self._remember(start.user_key, start.broker, DefaultAccount(start.account_id, start.environment))
        now_ms = self._clock.now_ms()
        self._rows[identity] = StoredSession(
            user_id=start.user_id,
            user_key=start.user_key,
            broker=start.broker,
            account_id=start.account_id,
            environment=start.environment,
            wanted=True,
            command=row.command + 1 if row else 1,
            at_risk=row.at_risk if row else False,
            ended=None,
            owes_record=False,
            started_at_ms=row.started_at_ms if row and row.wanted else now_ms,
            stopped_at_ms=None,
            last_used_at_ms=now_ms,
            default_account=None,
        )
        default = default or self._defaults.get((start.user_key, start.broker))
        return Started(self._shown(self._rows[identity]), default, replaced)

    async def stop(
        self,
        user_key: str,
        broker: str,
        account_id: str | None,
        *,
        reason: ReasonCode = ReasonCode.STOPPED,
        idle_for_s: float | None = None,
    ) -> list[StoredSession]:
        meant = [
            row for row in self._of(user_key, broker) if account_id is None or (row.account_id or "") == account_id
        ]
        for row in meant:
            if row.wanted and (idle_for_s is None or self._is_idle(row, idle_for_s)):
                self._rows[row.identity] = replace(
                    row,
                    wanted=False,
                    command=row.command + 1,
                    ended=reason,
                    owes_record=True,
                    stopped_at_ms=self._clock.now_ms(),
                )
        return [self._shown(self._rows[row.identity]) for row in meant]

    async def resolve(self, user_key: str, broker: str, found: DefaultAccount) -> DefaultAccount:
        named, unknown = (user_key, broker, found.account_id), (user_key, broker, "")
        row, other = self._rows.get(unknown), self._rows.get(named)
        if (row is not None) is (other is not None and other.wanted):
            raise AlreadyWanted("the account has a session of its own")
        if row is not None:
            del self._rows[unknown]
            self._rows[named] = replace(row, account_id=found.account_id)
        return self._remember(user_key, broker, found)

    async def wanted(self, *, at_risk: bool, after: Identity | None, limit: int) -> list[StoredSession]:
        return self._page(lambda row: row.wanted and row.at_risk is at_risk, after, limit)

    async def owing(self, *, after: Identity | None, limit: int) -> list[StoredSession]:
        return self._page(lambda row: row.owes_record, after, limit)

    async def ended(self, *, broker: str | None, after: Identity | None, limit: int) -> tuple[list[StoredSession], int]:
        def is_meant(row: StoredSession) -> bool:
            return not row.wanted and broker in (None, row.broker)

        return self._page(is_meant, after, limit), sum(map(is_meant, self._rows.values()))

    async def of_user(self, key: str) -> list[StoredSession]:
        found = [row for row in self._rows.values() if row.user_key.startswith(key) or _plain(row).startswith(key)]
        if len({row.user_key for row in found}) > 1:
            raise Conflict("several users match these digits; give more of the key")
        return [self._shown(row) for row in sorted(found, key=lambda row: row.identity)]

    async def idle(self, idle_for_s: float, limit: int) -> list[StoredSession]:
        return self._page(lambda row: row.wanted and self._is_idle(row, idle_for_s), None, limit)

    async def note(self, notes: Sequence[Note]) -> None:
        for note in notes:
            row = self._rows.get(note.identity)
            if row is None:
                continue
            used_at_ms = row.last_used_at_ms
            if note.used_ago_s is not None:
                used_at_ms = max(used_at_ms, self._clock.now_ms() - round(note.used_ago_s * 1000))
            self._rows[note.identity] = replace(
                row,
                at_risk=row.at_risk if note.at_risk is None else note.at_risk,
                last_used_at_ms=used_at_ms,
                owes_record=row.owes_record and note.recorded != row.command,
            )

    async def erase(self, user_key: str) -> None:
        self._rows = {identity: row for identity, row in self._rows.items() if identity[0] != user_key}
        self._defaults = {where: default for where, default in self._defaults.items() if where[0] != user_key}

    # ------------------------------------------------------------ small things

    def _of(self, user_key: str, broker: str) -> list[StoredSession]:
        rows = (row for row in self._rows.values() if row.user_key == user_key and row.broker == broker)
        return [self._shown(row) for row in sorted(rows, key=lambda row: row.identity)]

    def _page(
        self, is_meant: Callable[[StoredSession], bool], after: Identity | None, limit: int
    ) -> list[StoredSession]:
        rows = [row for row in self._rows.values() if is_meant(row) and (after is None or row.identity > after)]
        return [self._shown(row) for row in sorted(rows, key=lambda row: row.identity)[:limit]]

    def _shown(self, row: StoredSession) -> StoredSession:
        default = self._defaults.get((row.user_key, row.broker))
        return replace(row, default_account=default.account_id if default else None)

    def _is_idle(self, row: StoredSession, idle_for_s: float) -> bool:
        return self._clock.now_ms() - row.last_used_at_ms > idle_for_s * 1000

    def _remember(self, user_key: str, broker: str, account: DefaultAccount) -> DefaultAccount:
        """The default never moves to another account; its environment follows the latest start of that account."""
        held = self._defaults.get((user_key, broker))
        if held is None or held.account_id == account.account_id:
            self._defaults[user_key, broker] = held = account
        return held


def _plain(row: StoredSession) -> str:
    return _PLAIN.keys(row.user_id).canonical
