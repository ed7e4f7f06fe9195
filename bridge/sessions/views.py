"""What callers of the session service see: plain frozen values, and the conflicts that a start can end in.

Nothing here refers back into the session table, so a view can be kept, compared and rendered at leisure. A view is
true at the moment it was made and never changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.brokers.base import BrokerAccount, Reason
from core.errors import Conflict


class NoCredentials(Conflict):
    """Nothing is stored for this user at this broker: the user must connect it first."""


class AccountChoice(Conflict):
    """Several accounts are covered and none was named: the caller must choose one of `accounts`."""

    def __init__(self, message: str, accounts: Sequence[BrokerAccount]) -> None:
        super().__init__(message)
        self.accounts = tuple(accounts)


@dataclass(frozen=True, slots=True)
class SessionView:
    """One session as listed. Times are Unix ms; `uptime_percent` is the share of time live since start, 0 to 100.

    `serial` identifies the row inside this process (for `wait`), not outside. `status` is the record status, "fenced"
    where no record is written. `cache_key` is None only while a further account of a user is not yet known by id.
    `events`, `fence`, `version`, `last_*`: None or 0 before there was any. Of a session that another process serves,
    its own figures (attempts, reconnects, events, uptime) are None here. `owner`: who serves it, None: nobody.
    """

    serial: int
    user_key: str
    broker: str
    environment: str
    account_id: str | None
    status: str
    state: str
    reason: Reason | None
    since: int
    next_attempt_at: int | None
    attempts: int | None
    reconnects: int | None
    events: int | None
    last_event_at: int | None
    last_flush_at: int | None
    uptime_percent: float | None
    owner: str | None
    fence: int | None
    version: int
    cache_key: str | None


@dataclass(frozen=True, slots=True)
class SessionPage:
    """A page of a listing: `total` sessions match; `next` is the cursor of the following page, None at the end."""

    sessions: tuple[SessionView, ...]
    total: int
    next: str | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that went wrong, as it was seen. `cause`: class names of the underlying errors, outermost first."""

    at: int
    state: str
    kind: str
    code: str
    message: str
    broker_code: str | None
    cause: str | None


@dataclass(frozen=True, slots=True)
class FillView:
    """One execution. `recovered`: no live message told of it (the stream was cut), it was found afterwards."""

    at: int
    execution_id: str
    order_id: str
    symbol: str | None
    side: str
    units: float | int | None
    price: float | int | None
    recovered: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a session is as it is.

    `chain`: what went wrong, newest first (the last entries also remain while live). `awaits`: what ends the present
    state ("timer", "admission", "login", "refresh", "user", "lease", "owner": ask that process, "nothing").
    `what_next`: one sentence; `unblock`: what a person can do, None when nothing is needed. `queue_position` counts
    from 1 among `queue_length` waiting sessions.
    `fills`: the last executions known, newest first.
    """

    session: SessionView
    chain: tuple[Evidence, ...]
    awaits: str
    what_next: str
    unblock: str | None
    next_attempt_at: int | None
    queue_position: int | None
    queue_length: int
    fills: tuple[FillView, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnershipView:
    """How this process stands among those that share a database. `lease_age_ms`: since its last renewal.

    `state`: "joining" (no lease yet), "active", "draining" (an operator wants it empty), "suspended" (it cannot renew
    its lease and does not act) or "ending". `owned`: sessions; `processes`: with a lease, this one included.
    """

    owner: str
    state: str
    lease_age_ms: int | None
    owned: int
    processes: int


@dataclass(frozen=True, slots=True)
class FleetProcess:
    """One process with a lease. Times Unix ms; `lease_left_ms`, and `share`: of the sessions, by capacity.

    `sessions`: by record status, as it last said. `here`: the one that answers.
    """

    owner: str
    version: str
    capacity: int
    share: int
    load: int
    draining: bool
    started_at: int
    renewed_at: int
    lease_left_ms: int
    sessions: Mapping[str, int]
    here: bool


@dataclass(frozen=True, slots=True)
class FleetView:
    """All processes, oldest first. `total`: sessions that need one; `unowned`: those that have none."""

    processes: tuple[FleetProcess, ...]
    total: int
    unowned: int


@dataclass(frozen=True, slots=True)
class Moving:
    """A session that an operator wants elsewhere. `move_to` None: it is there already, and stays."""

    user_key: str
    broker: str
    account_id: str | None
    owner: str | None
    move_to: str | None


@dataclass(frozen=True, slots=True)
class SessionMetrics:
    """Counters (since start of the process, never falling) and gauges for telemetry.

    `sessions[(broker, status)]`, `waiting[(broker, environment)]` and `logging_in[(broker, environment)]` are gauges.
    `events[broker]`, `reconnects[cause]`, `logins[outcome]`, `refreshes[outcome]`, `reconciles[outcome]`,
    `lost_events[broker]`, `internal_errors` are counters.
    """

    sessions: Mapping[tuple[str, str], int]
    waiting: Mapping[tuple[str, str], int]
    logging_in: Mapping[tuple[str, str], int]
    events: Mapping[str, int]
    reconnects: Mapping[str, int]
    logins: Mapping[str, int]
    refreshes: Mapping[str, int]
    reconciles: Mapping[str, int]
    lost_events: Mapping[str, int]
    internal_errors: int
