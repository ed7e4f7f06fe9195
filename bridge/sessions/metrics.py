"""What the supervisor counts, and the reading of it for telemetry. Counters never fall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bridge.brokers.base import BrokerFault, ReasonCode
from bridge.sessions.session import Session
from bridge.sessions.states import status_name
from bridge.sessions.views import SessionMetrics


@dataclass(slots=True)
class Counters:
    """Raised by the supervisor where things happen. `events_of_removed`: of rows that are no more in the table."""

    reconnects: Counter[str] = field(default_factory=Counter)
    logins: Counter[str] = field(default_factory=Counter)
    refreshes: Counter[str] = field(default_factory=Counter)
    reconciles: Counter[str] = field(default_factory=Counter)
    lost_events: Counter[str] = field(default_factory=Counter)
    events_of_removed: Counter[str] = field(default_factory=Counter)
    internal_errors: int = 0

    def ended(self, outcomes: Counter[str], fault: BrokerFault | None) -> None:
        """A login, refresh or reconcile ended, well or with a fault."""
        outcomes["ok" if fault is None else fault.kind.value] += 1
        if fault is not None and fault.reason.code is ReasonCode.INTERNAL_ERROR:
            self.internal_errors += 1


def read_metrics(
    counters: Counters,
    sessions: Iterable[Session],
    waiting: Mapping[tuple[str, str], int],
    logging_in: Mapping[tuple[str, str], int],
    internal_errors: int,
) -> SessionMetrics:
    """Counters as they are, gauges from one pass over the table."""
    by_status: Counter[tuple[str, str]] = Counter()
    events = counters.events_of_removed.copy()
    for session in sessions:
        by_status[session.broker, status_name(session.state)] += 1
        events[session.broker] += session.events
    return SessionMetrics(
        sessions=by_status,
        waiting=dict(waiting),
        logging_in=dict(logging_in),
        events=events,
        reconnects=counters.reconnects.copy(),
        logins=counters.logins.copy(),
        refreshes=counters.refreshes.copy(),
        reconciles=counters.reconciles.copy(),
        lost_events=counters.lost_events.copy(),
        internal_errors=internal_errors,
    )
