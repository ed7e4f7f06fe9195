"""What happened, counted: `GET /sim/counters` lets a test ask how a client behaved.

Every table is bounded: accounts and tokens are those of the world, the auth order keeps the newest entries.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, fields
from typing import Any

AUTH_ORDER_KEPT = 50_000


@dataclass(slots=True)
class Counters:
    """Times are Unix ms. `double_logins`: account auth on a connection that already has it;
    `parallel_logins`: on a second connection while the first still has it."""

    budget_violations: int = 0
    budget_violations_by_request: Counter[str] = field(default_factory=Counter)
    double_logins: int = 0
    parallel_logins: int = 0
    app_auth_failures: int = 0
    account_auth_failures: int = 0
    refreshes: int = 0
    refresh_failures: int = 0
    connections_opened: int = 0
    connections_closed: int = 0
    idle_cutoffs: int = 0
    heartbeats_received: int = 0
    spot_events: int = 0
    spot_events_skipped: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    auth_attempts_by_account: Counter[int] = field(default_factory=Counter)
    auth_attempts_by_user: Counter[int] = field(default_factory=Counter)
    executions_by_account: Counter[int] = field(default_factory=Counter)  # deals, whoever listened
    faults: Counter[str] = field(default_factory=Counter)
    auth_order: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=AUTH_ORDER_KEPT))
    dials: deque[int] = field(default_factory=lambda: deque(maxlen=AUTH_ORDER_KEPT))

    def reset(self) -> None:
        """Begin counting anew; holders of this object keep it."""
        fresh = Counters()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))

    def as_json(self, open_connections: int) -> dict[str, Any]:
        """The counters in the admin route's field names."""
        return {
            "budgetViolations": self.budget_violations,
            "budgetViolationsByRequest": dict(self.budget_violations_by_request),
            "doubleLogins": self.double_logins,
            "parallelLogins": self.parallel_logins,
            "authAttempts": sum(self.auth_attempts_by_account.values()),
            "authAttemptsByAccount": {str(k): v for k, v in self.auth_attempts_by_account.items()},
            "authAttemptsByUser": {f"user-{k}": v for k, v in self.auth_attempts_by_user.items()},
            "authOrder": [
                {"atMs": at, "accountId": str(account), "connection": connection}
                for at, account, connection in self.auth_order
            ],
            "appAuthFailures": self.app_auth_failures,
            "accountAuthFailures": self.account_auth_failures,
            "refreshes": self.refreshes,
            "refreshFailures": self.refresh_failures,
            "connections": open_connections,
            "connectionsOpened": self.connections_opened,
            "connectionsClosed": self.connections_closed,
            "dialsAtMs": list(self.dials),
            "idleCutoffs": self.idle_cutoffs,
            "heartbeatsReceived": self.heartbeats_received,
            "spotEvents": self.spot_events,
            "spotEventsSkipped": self.spot_events_skipped,
            "requests": dict(self.requests),
            "errors": dict(self.errors),
            "executionsByAccount": {str(k): v for k, v in self.executions_by_account.items()},
            "faults": dict(self.faults),
        }
