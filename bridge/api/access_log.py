"""What the audit log is told of callers: API keys at work, and refusals; each once a minute, so that polls and floods
do not fill it.

Must never be handed what a caller sent beyond the user a key acts for: a line names the route of the table, not the
path. Invariant: memory is bounded whatever callers do, and so is what nobody in particular can write: one line a minute
for each route and kind of refusal.
"""

from __future__ import annotations

from dataclasses import dataclass

from cachetools import LRUCache

from bridge.api.callers import Access, Caller
from bridge.api.routes import Route
from bridge.runtime.clock import Clock
from bridge.telemetry.audit import NO_AUDIT, Action, Audit

ONCE_PER_S = 60.0
REMEMBERED = 10_000
OK = "ok"
_USER_DATA = (Access.APP, Access.OPS, Access.OPS_OR_USER)

Line = tuple[Action, str, str | None, str, str]  # action, actor, user key, outcome, route


@dataclass(slots=True)
class _Told:
    until: float  # monotonic
    held_back: int = 0


class AccessLog:
    """Tells the audit log."""

    def __init__(self, clock: Clock, audit: Audit = NO_AUDIT) -> None:
        self._clock = clock
        self._audit = audit
        self._told: LRUCache[Line, _Told] = LRUCache(REMEMBERED)

    def used(self, caller: Caller, route: Route, user_key: str | None, outcome: str = OK) -> None:
        """A call by an API key has ended. Reads are not told apart by user: polling them all would be a line each."""
        if caller.key_id is not None and route.access in _USER_DATA:
            self._tell(Action.KEY_USE, caller.actor, user_key if route.writes else None, outcome, _name(route))

    def refused(self, caller: Caller | None, route: Route | None, slug: str) -> None:
        """A call was refused with 401 or 403; `caller` and `route` as far as they were known."""
        actor = "ip" if caller is None else caller.actor
        user_key = caller.user_keys[0] if caller is not None and caller.user_keys else None
        self._tell(Action.REFUSED, actor, user_key, slug, "" if route is None else _name(route))

    def _tell(self, *line: *Line) -> None:
        now = self._clock.monotonic()
        told = self._told.get(line)
        if told is not None and now < told.until:
            told.held_back += 1
            return
        action, actor, user_key, outcome, route = line
        before = {"held_back": told.held_back} if told is not None and told.held_back else {}
        self._told[line] = _Told(now + ONCE_PER_S)
        self._audit.record(action, user_key=user_key, actor=actor, outcome=outcome, detail={"route": route, **before})


def _name(route: Route) -> str:
    return f"{route.method} {route.path}"
