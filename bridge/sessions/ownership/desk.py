"""What operators may ask of the fleet, at any process or from the command line: look, drain, move.

Stores wishes; the processes concerned carry them out. Every wish is taken down in the audit log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from bridge.sessions.desired import StoredSession
from bridge.sessions.ownership.fleet import Fleet, ProcessRow
from bridge.sessions.ownership.shares import Member, shares
from bridge.sessions.ownership.steward import Steward
from bridge.sessions.views import FleetProcess, FleetView, Moving, OwnershipView
from bridge.telemetry.audit import Action, Audit, Detail


class FleetDesk:
    """Wishes of operators."""

    def __init__(self, fleet: Fleet, audit: Audit) -> None:
        self._fleet = fleet
        self._audit = audit

    @property
    def here(self) -> str | None:
        """The name of the process that answers, if one does."""
        return None

    async def view(self) -> FleetView:
        """Every process, its share and its load. What a process has whose lease has ended counts as unowned: it is
        not served, and the others are about to notice. Raises Unavailable."""
        here = self.here
        rows, unowned = await self._fleet.processes()
        total = sum(row.load for row in rows) + unowned
        unserved = unowned + sum(row.load for row in rows if row.left_ms <= 0)
        serving = [_member(row) for row in rows if row.left_ms > 0]
        share = shares(serving, total) if serving else {}
        return FleetView(tuple(_process(row, share.get(row.owner, 0), here) for row in rows), total, unserved)

    async def drain(self, owner: str, *, draining: bool, actor: str) -> str:
        """Let a process, named by its beginning, give everything up, or take sessions again; returns its name.

        Raises NotFound, Conflict, Unavailable.
        """
        name = await self._fleet.drain(owner, draining=draining)
        detail: Detail = {"process": name, "draining": draining}
        self._audit.record(Action.DRAIN, user_key=None, actor=actor, detail=detail)
        return name

    async def move(
        self, user_key: str, *, broker: str | None, account_id: str | None, to: str | None, actor: str
    ) -> list[Moving]:
        """Want the sessions of a user (canonical key) elsewhere: at `to`, or where there is most room.

        Raises NotFound, Conflict, Unavailable.
        """
        rows = await self._fleet.move(user_key, broker=broker, account_id=account_id, to=to)
        self._take_down(rows, actor)
        return [Moving(row.user_key, row.broker, row.account_id, row.owner, row.move_to) for row in rows]

    def _take_down(self, rows: Sequence[StoredSession], actor: str) -> None:
        for row in rows:
            detail: Detail = {
                "broker": row.broker,
                "environment": row.environment.value,
                "from": row.owner,
                "to": row.move_to,
            }
            self._audit.record(Action.MOVE, user_key=row.user_key, actor=actor, detail=detail)


class FleetOfProcess(FleetDesk):
    """The same in a process that is one of them."""

    def __init__(self, steward: Steward, audit: Audit) -> None:
        super().__init__(steward.fleet, audit)
        self._steward = steward

    @property
    def here(self) -> str | None:
        """The name of the process that answers."""
        return self._steward.standing().owner

    def standing(self) -> OwnershipView:
        """How this process stands."""
        return self._steward.standing()


def by_status(counts: Mapping[str, int]) -> dict[str, int]:
    """Sessions by record status, of counts by "broker status"."""
    found: Counter[str] = Counter()
    for name, number in counts.items():
        found[name.partition(" ")[2] or name] += number
    return dict(found)


def _member(row: ProcessRow) -> Member:
    return Member(row.owner, row.capacity, row.load, row.draining, age_s=0.0, left_s=row.left_ms / 1000)


def _process(row: ProcessRow, share: int, here: str | None) -> FleetProcess:
    return FleetProcess(
        owner=row.owner,
        version=row.version,
        capacity=row.capacity,
        share=share,
        load=row.load,
        draining=row.draining,
        started_at=row.started_at_ms,
        renewed_at=row.renewed_at_ms,
        lease_left_ms=row.left_ms,
        sessions=by_status(row.sessions),
        here=row.owner == here,
    )
