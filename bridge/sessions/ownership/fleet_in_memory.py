"""Ownership among several session services of one process: the reference of the protocol, for tests and simulations.

Works on the rows of a `DesiredInMemory`. Nothing here waits or fails; every method is one step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bridge.runtime.clock import Clock
from bridge.sessions.desired import Identity, StoredSession
from bridge.sessions.ownership.fleet import FleetLook, ProcessRow
from bridge.sessions.ownership.placing import chosen_process, named_process, someone_else_serves
from bridge.sessions.ownership.shares import Member, Reading, backlog
from bridge.sessions.remembered import DesiredInMemory
from core.errors import NotFound


@dataclass(slots=True)
class _Process:
    version: str
    capacity: int
    started_at_ms: int
    renewed_at_ms: int
    expires_at_ms: int
    draining: bool = False
    sessions: Mapping[str, int] = field(default_factory=dict)


class FleetInMemory:
    """A `Fleet` over `desired`. `told`: called with whom a notice is for."""

    def __init__(self, desired: DesiredInMemory, clock: Clock, told: Callable[[str], None] = lambda whom: None) -> None:
        self._desired = desired
        self._clock = clock
        self._told = told
        self._processes: dict[str, _Process] = {}
        desired.alive = self._processes.keys()

    async def join(self, owner: str, *, version: str, capacity: int, ttl_s: float) -> None:
        now_ms = self._clock.now_ms()
        self._processes[owner] = _Process(version, capacity, now_ms, now_ms, now_ms + round(ttl_s * 1000))

    async def renew(self, owner: str, *, ttl_s: float) -> bool:
        mine, now_ms = self._processes.get(owner), self._clock.now_ms()
        if mine is not None:
            mine.expires_at_ms, mine.renewed_at_ms = now_ms + round(ttl_s * 1000), now_ms
        return mine is not None

    async def look(self, owner: str, *, brokers: Sequence[str], sessions: Mapping[str, int] | None = None) -> FleetLook:
        now_ms = self._clock.now_ms()
        buried = [name for name, one in self._processes.items() if name != owner and one.expires_at_ms <= now_ms]
        for name in buried:
            del self._processes[name]
        mine = self._processes.get(owner)
        if mine is not None and sessions is not None:
            mine.sessions = dict(sessions)
        rows, unowned = await self.processes()
        free = self._free(owner, brokers)
        members = tuple(self._members())
        return FleetLook(
            reading=Reading(
                members,
                sum(row.load for row in rows) + unowned,
                len(free),
                sum(row.move_to == owner for row in free),
            ),
            processes=tuple(rows),
            alive=mine is not None,
            moves=tuple(
                row.identity
                for row in self._needing()
                if row.owner == owner and row.move_to != owner and row.move_to in self._processes
            ),
            buried=tuple(buried),
        )

    async def processes(self) -> tuple[list[ProcessRow], int]:
        now_ms = self._clock.now_ms()
        rows = [
            ProcessRow(
                name,
                one.version,
                one.capacity,
                one.draining,
                self._load(name),
                one.sessions,
                one.started_at_ms,
                one.renewed_at_ms,
                one.expires_at_ms - now_ms,
            )
            for name, one in self._processes.items()
        ]
        return rows, sum(row.owner not in self._processes for row in self._needing())

    async def claim(self, owner: str, *, brokers: Sequence[str], limit: int) -> list[StoredSession]:
        mine = self._processes.get(owner)
        if mine is None or mine.expires_at_ms <= self._clock.now_ms():
            return []
        order = sorted(
            self._free(owner, brokers),
            key=lambda row: (row.move_to != owner, not row.at_risk, not row.wanted, row.identity),
        )
        claimed = [self._desired.own(row.identity, owner) for row in order[:limit]]
        return sorted(claimed, key=lambda row: (not row.at_risk, not row.wanted, row.identity))

    async def reclaim(self, owner: str, identities: Sequence[Identity]) -> list[StoredSession]:
        held = [row for row in self._desired.rows() if row.owner == owner and row.identity in identities]
        return [self._desired.own(row.identity, owner) for row in held if owner in self._processes]

    async def release(self, owner: str, identities: Sequence[Identity]) -> None:
        for row in self._desired.rows():
            if row.owner == owner and row.identity in identities:
                self._desired.own(row.identity, None, move_to=row.move_to)
        self._told("*")

    async def leave(self, owner: str) -> None:
        self._processes.pop(owner, None)
        self._told("*")

    async def drain(self, owner: str, *, draining: bool) -> str:
        found = named_process(self._members(), owner)
        if draining:
            someone_else_serves(self._members(), found)
        self._processes[found.owner].draining = draining
        self._told(found.owner)
        return found.owner

    async def move(
        self, user_key: str, *, broker: str | None, account_id: str | None, to: str | None
    ) -> list[StoredSession]:
        meant = [
            row
            for row in self._desired.rows()
            if row.user_key == user_key and row.wanted and broker in (None, row.broker)
            if account_id in (None, row.account_id)
        ]
        target = chosen_process(self._members(), to, serving={row.owner for row in meant}).owner
        if not meant:
            raise NotFound("no such session is wanted")
        for row in meant:
            self._desired.want_at(row.identity, None if row.owner == target else target)
            self._told(row.owner or "*")
        return [row for row in self._desired.rows() if row.identity in {each.identity for each in meant}]

    # ------------------------------------------------------------ small things

    def _needing(self) -> list[StoredSession]:
        return [row for row in self._desired.rows() if row.wanted or row.owes_record]

    def _load(self, owner: str) -> int:
        return sum(row.owner == owner for row in self._needing())

    def _free(self, owner: str, brokers: Sequence[str]) -> list[StoredSession]:
        taking = [name for name, one in self._processes.items() if not one.draining]
        return [
            row
            for row in self._needing()
            if row.broker in brokers
            and row.owner not in self._processes
            and (row.move_to in (None, owner) or row.move_to not in taking)
        ]

    def _members(self) -> list[Member]:
        now_ms = self._clock.now_ms()
        return [
            Member(
                name,
                one.capacity,
                self._load(name),
                one.draining,
                age_s=(now_ms - one.started_at_ms) / 1000,
                left_s=(one.expires_at_ms - now_ms) / 1000,
                backlog=backlog(self._load(name), one.sessions),
            )
            for name, one in self._processes.items()
        ]
