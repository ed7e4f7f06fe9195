"""Desired sessions for the life of the process: what runs without a database, and the reference of the protocol.

Keeps every row that was ever started, without its session; nothing here waits or fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from bridge.brokers.base import ReasonCode
from bridge.runtime.clock import Clock
from bridge.sessions.defaults import DefaultAccount
from bridge.sessions.desired import AlreadyWanted, Identity, Known, Note, Start, Started, StoredSession
from core.errors import Conflict
from core.user_key import UserKeyScheme

_PLAIN = UserKeyScheme()


class DesiredInMemory:
    """A `DesiredSessions` in two dictionaries. Idle times go by the injected clock.

    `alive`: names of processes that have a lease; none, where there is one process only.
    """

    shared = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.alive: Collection[str] = ()
        self._changed: dict[Identity, int] = {}  # Unix ms
        self._rows: dict[Identity, StoredSession] = {}
        self._defaults: dict[tuple[str, str], DefaultAccount] = {}

    async def known(self, user_key: str, broker: str) -> Known:
        return Known(self._defaults.get((user_key, broker)), tuple(self._of(user_key, broker)))

    async def start(self, start: Start, *, owner: str | None = None) -> Started:
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
            owner=row.owner if row else None,
            fence=row.fence if row else 0,
            move_to=row.move_to if row else None,
        )
        self._commanded(identity, owner)
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
        owner: str | None = None,
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
                self._commanded(row.identity, owner)
        return [self._shown(self._rows[row.identity]) for row in meant]

    async def retry(self, user_key: str, broker: str) -> list[StoredSession]:
        wanted = [row.identity for row in self._of(user_key, broker) if row.wanted]
        for identity in wanted:
            self._rows[identity] = replace(self._rows[identity], command=self._rows[identity].command + 1)
            self._changed[identity] = self._clock.now_ms()
        return [self._shown(self._rows[identity]) for identity in wanted]

    async def resolve(self, user_key: str, broker: str, found: DefaultAccount) -> DefaultAccount:
        named, unknown = (user_key, broker, found.account_id), (user_key, broker, "")
        row, other = self._rows.get(unknown), self._rows.get(named)
        if (row is not None) is (other is not None and other.wanted):
            raise AlreadyWanted("the account has a session of its own")
        if row is not None:
            del self._rows[unknown]
            self._rows[named] = replace(row, account_id=found.account_id)
            self._changed[named] = self._changed.pop(unknown, 0)
        return self._remember(user_key, broker, found)

    async def wanted(
        self, *, at_risk: bool, after: Identity | None, limit: int, owner: str | None = None
    ) -> list[StoredSession]:
        def is_meant(row: StoredSession) -> bool:
            return row.wanted and row.at_risk is at_risk and owner in (None, row.owner)

        return self._page(is_meant, after, limit)

    async def owing(self, *, after: Identity | None, limit: int, owner: str | None = None) -> list[StoredSession]:
        return self._page(lambda row: row.owes_record and owner in (None, row.owner), after, limit)

    async def changed(self, owner: str, within_s: float) -> list[StoredSession]:
        since_ms = self._clock.now_ms() - within_s * 1000
        rows = [row for row in self._rows.values() if self._changed.get(row.identity, 0) > since_ms]
        return [self._shown(row) for row in rows if row.owner == owner]

    async def page(self, *, broker: str | None, after: Identity | None, limit: int) -> tuple[list[StoredSession], int]:
        def is_meant(row: StoredSession) -> bool:
            return broker in (None, row.broker)

        return self._page(is_meant, after, limit), sum(map(is_meant, self._rows.values()))

    async def ended(self, *, broker: str | None, after: Identity | None, limit: int) -> tuple[list[StoredSession], int]:
        def is_meant(row: StoredSession) -> bool:
            return not row.wanted and broker in (None, row.broker)

        return self._page(is_meant, after, limit), sum(map(is_meant, self._rows.values()))

    async def of_user(self, key: str) -> list[StoredSession]:
        found = [row for row in self._rows.values() if row.user_key.startswith(key) or _plain(row).startswith(key)]
        if len({row.user_key for row in found}) > 1:
            raise Conflict("several users match these digits; give more of the key")
        return [self._shown(row) for row in sorted(found, key=lambda row: row.identity)]

    async def idle(self, idle_for_s: float, limit: int, *, owner: str | None = None) -> list[StoredSession]:
        def is_meant(row: StoredSession) -> bool:
            return row.wanted and self._is_idle(row, idle_for_s) and owner in (None, row.owner)

        return self._page(is_meant, None, limit)

    async def note(self, notes: Sequence[Note]) -> None:
        for note in notes:
            row = self._rows.get(note.identity)
            if row is None:
                continue
            used_at_ms = row.last_used_at_ms
            if note.used_ago_s is not None:
                used_at_ms = max(used_at_ms, self._clock.now_ms() - round(note.used_ago_s * 1000))
            owes_record = row.owes_record and note.recorded != row.command
            self._rows[note.identity] = replace(
                row,
                at_risk=row.at_risk if note.at_risk is None else note.at_risk,
                last_used_at_ms=used_at_ms,
                owes_record=owes_record,
                owner=row.owner if row.wanted or owes_record else None,
            )

    async def used(self, uses: Sequence[tuple[str, str, float]]) -> None:
        for user_key, broker, ago_s in uses:
            used_at_ms = self._clock.now_ms() - round(ago_s * 1000)
            for row in self._of(user_key, broker):
                held = self._rows[row.identity]
                self._rows[row.identity] = replace(held, last_used_at_ms=max(held.last_used_at_ms, used_at_ms))

    async def erase(self, user_key: str) -> None:
        self._rows = {identity: row for identity, row in self._rows.items() if identity[0] != user_key}
        self._defaults = {where: default for where, default in self._defaults.items() if where[0] != user_key}

    # ------------------------------------------------------------ owners

    def rows(self) -> list[StoredSession]:
        """All rows, for what shares them out."""
        return list(self._rows.values())

    def own(self, identity: Identity, owner: str | None, *, move_to: str | None = None) -> StoredSession:
        """Give a row another owner, under a higher fence when that is a process; returns it."""
        row = self._rows[identity]
        fence = row.fence if owner is None else max(row.fence + 1, self._clock.now_ms())
        self._rows[identity] = replace(row, owner=owner, fence=fence, move_to=move_to)
        self._changed[identity] = self._clock.now_ms()
        return self._shown(self._rows[identity])

    def want_at(self, identity: Identity, move_to: str | None) -> None:
        """Somebody wants the row at another process."""
        self._rows[identity] = replace(self._rows[identity], move_to=move_to)
        self._changed[identity] = self._clock.now_ms()

    def _commanded(self, identity: Identity, asked: str | None) -> None:
        """A command claims for the process that was asked what nobody serves."""
        row = self._rows[identity]
        self._changed[identity] = self._clock.now_ms()
        if row.owner not in self.alive:
            self.own(identity, asked if asked in self.alive else None, move_to=row.move_to)

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
