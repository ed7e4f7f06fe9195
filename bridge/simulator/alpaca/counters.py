"""What happened, counted: `GET /sim/alpaca/counters` lets a test ask how a client behaved.

Every table is bounded: accounts and users are those of the world, routes those that exist, lists keep the newest.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, fields
from typing import Any

KEPT = 50_000


@dataclass(slots=True)
class Counters:
    """Times are Unix ms. Accounts are the UUIDs of accounts; routes look like `GET /v2/orders/{id}`.

    `double_logins`: a trading stream authenticated while another of that account was open.
    `refused_slots`: handshakes and authentications refused because the account's slot was taken.
    """

    budget_violations: int = 0
    budget_violations_by_account: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    requests_by_account: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)  # by HTTP status
    errors: Counter[str] = field(default_factory=Counter)  # by Alpaca's code, "401" where the body has none
    unauthorized: int = 0
    grants: int = 0
    grant_failures: int = 0
    trading_streams: int = 0  # open now
    trading_streams_opened: int = 0
    data_streams: int = 0  # open now
    data_streams_opened: int = 0
    refused_slots: int = 0
    double_logins: int = 0
    stream_auth_failures: int = 0
    trade_updates: int = 0  # frames sent
    data_messages: int = 0
    slow_clients: int = 0
    auth_attempts_by_account: Counter[str] = field(default_factory=Counter)  # on trading streams
    auth_attempts_by_user: Counter[int] = field(default_factory=Counter)
    executions_by_account: Counter[str] = field(default_factory=Counter)  # fills, whoever listened
    faults: Counter[str] = field(default_factory=Counter)
    auth_order: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=KEPT))  # (at ms, account)
    dials: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT))  # trading stream handshakes

    def reset(self) -> None:
        """Begin counting anew; holders of this object keep it. What is open stays counted as open."""
        fresh = Counters(trading_streams=self.trading_streams, data_streams=self.data_streams)
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))

    def as_json(self) -> dict[str, Any]:
        """The counters in the admin route's field names."""
        return {
            "budgetViolations": self.budget_violations,
            "budgetViolationsByAccount": dict(self.budget_violations_by_account),
            "doubleLogins": self.double_logins,
            "refusedSlots": self.refused_slots,
            "authAttempts": sum(self.auth_attempts_by_account.values()),
            "authAttemptsByAccount": dict(self.auth_attempts_by_account),
            "authAttemptsByUser": {f"user-{user}": count for user, count in self.auth_attempts_by_user.items()},
            "authOrder": [{"atMs": at, "accountId": account} for at, account in self.auth_order],
            "dialsAtMs": list(self.dials),
            "streamAuthFailures": self.stream_auth_failures,
            "unauthorized": self.unauthorized,
            "grants": self.grants,
            "grantFailures": self.grant_failures,
            "tradingStreams": self.trading_streams,
            "tradingStreamsOpened": self.trading_streams_opened,
            "dataStreams": self.data_streams,
            "dataStreamsOpened": self.data_streams_opened,
            "tradeUpdates": self.trade_updates,
            "dataMessages": self.data_messages,
            "slowClients": self.slow_clients,
            "requests": dict(self.requests),
            "requestsByAccount": dict(self.requests_by_account),
            "answers": dict(self.answers),
            "errors": dict(self.errors),
            "executionsByAccount": dict(self.executions_by_account),
            "faults": dict(self.faults),
        }
