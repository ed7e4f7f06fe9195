"""Which request of an account leaves next, and when: classes, a sliding window, what the broker says is left.

Decides only; time is passed in (monotonic seconds). Invariants: in any window at most `rate` requests leave, orders may
use a small reserve above it; not more than the broker's headers leave over, since the user's own programs share the
budget (reference/alpaca.md §1.6); first come first served within a class; what has waited long counts as one class
higher, so nothing starves; no request outlives its deadline.
"""

from __future__ import annotations

import math
from collections import deque
from enum import IntEnum
from typing import Generic, TypeVar

from core.errors import Unavailable

_SAME_PERIOD_S = 2.0  # two headers that name ends so close speak of one period: they come in whole seconds

C = TypeVar("C")


class Priority(IntEnum):
    """Lower leaves first."""

    ORDER = 0
    LOGIN = 1  # and the reading after a fill
    POLL = 2
    RECONCILE = 3


class Ticket(Generic[C]):
    """One request that waits for its turn. `context` belongs to the caller (its future)."""

    __slots__ = ("context", "deadline", "in_flight", "left", "priority", "since")

    def __init__(self, priority: Priority, since: float, deadline: float, context: C) -> None:
        self.priority = priority
        self.since = since
        self.deadline = deadline
        self.context = context
        self.left = False  # it left, or was given up
        self.in_flight = False


class Budget(Generic[C]):
    """The requests of one account."""

    __slots__ = (
        "_aging_s",
        "_held_until",
        "_left",
        "_left_until",
        "_max_queue",
        "_queues",
        "_rate",
        "_reserve",
        "_sent",
        "_spared",
        "_window_s",
        "in_flight",
        "queued",
    )

    def __init__(self, rate: int, reserve: int, window_s: float, aging_s: float, max_queue: int) -> None:
        self._rate = rate
        self._reserve = reserve
        self._window_s = window_s
        self._aging_s = aging_s
        self._max_queue = max_queue
        self._queues: dict[Priority, deque[Ticket[C]]] = {priority: deque() for priority in Priority}
        self._sent: deque[float] = deque()
        self._held_until = -math.inf
        self._left = 0  # what the broker lets us send, until
        self._left_until = -math.inf
        self._spared = 0  # of that, for orders only
        self.in_flight = 0
        self.queued = 0

    def submit(self, ticket: Ticket[C]) -> None:
        """Queue a request. Raises Unavailable when too many wait already."""
        if self.queued >= self._max_queue:
            raise Unavailable("too many requests wait for the broker")
        self.queued += 1
        self._queues[ticket.priority].append(ticket)

    def take(self, now: float) -> Ticket[C] | None:
        """The next request that may leave now, counted as sent; None when none may."""
        ticket = self._head(now)
        if ticket is None or self._free_at(ticket.priority, now) > now:
            return None
        self._queues[ticket.priority].popleft()
        self._drop(ticket)
        ticket.in_flight = True
        self.in_flight += 1
        self._sent.append(now)
        if now < self._left_until:
            self._left -= 1
        return ticket

    def give_up(self, ticket: Ticket[C]) -> None:
        """Nobody waits for it any more. Harmless when it has left."""
        if not ticket.left:
            self._queues[ticket.priority].remove(ticket)
            self._drop(ticket)

    def settle(self, ticket: Ticket[C]) -> None:
        """It was answered, or will not be. Harmless when repeated."""
        if ticket.in_flight:
            ticket.in_flight = False
            self.in_flight -= 1

    def overdue(self, now: float) -> list[Ticket[C]]:
        """Waiting requests whose deadline has passed; given up by this."""
        late = [ticket for queue in self._queues.values() for ticket in queue if ticket.deadline <= now]
        for ticket in late:
            self.give_up(ticket)
        return late

    def wake_at(self, now: float) -> float | None:
        """When to look again; None: only after a submit."""
        ticket = self._head(now)
        if ticket is None:
            return None
        deadline = min(each.deadline for queue in self._queues.values() for each in queue)
        return min(deadline, self._free_at(ticket.priority, now))

    def observe(self, limit: int, remaining: int, resets_at: float, now: float) -> None:
        """An answer's rate headers, after `settle`; what else is on its way may or may not be counted in them."""
        if resets_at <= now:
            return
        left = max(remaining - self.in_flight, 0)
        if now < self._left_until and abs(resets_at - self._left_until) < _SAME_PERIOD_S:
            left = min(left, self._left)
            resets_at = max(resets_at, self._left_until)
        self._left, self._left_until = left, resets_at
        self._spared = min(self._reserve, limit // 10)

    def refused(self, until: float) -> None:
        """The broker said there were too many: nothing leaves until then."""
        self._held_until = max(self._held_until, until)

    @property
    def held_until(self) -> float:
        """Until when nothing leaves at all; in the past: nothing is held."""
        return self._held_until

    def _head(self, now: float) -> Ticket[C] | None:
        """Whose turn it is: the highest class, where long waiting counts; of equals who has waited longest."""
        heads = [queue[0] for queue in self._queues.values() if queue]
        return min(heads, key=lambda ticket: (self._rank(ticket, now), ticket.since), default=None)

    def _rank(self, ticket: Ticket[C], now: float) -> int:
        if ticket.priority is Priority.ORDER:
            return 0
        return max(ticket.priority - int((now - ticket.since) / self._aging_s), 1)

    def _free_at(self, priority: Priority, now: float) -> float:
        """When the budget admits one more request of this class."""
        sent = self._sent
        while sent and sent[0] + self._window_s <= now:
            sent.popleft()
        at = max(now, self._held_until)
        order = priority is Priority.ORDER
        limit = self._rate + self._reserve if order else self._rate
        if len(sent) >= limit:
            at = max(at, sent[len(sent) - limit] + self._window_s)
        if now < self._left_until and self._left <= (0 if order else self._spared):
            at = max(at, self._left_until)
        return at

    def _drop(self, ticket: Ticket[C]) -> None:
        ticket.left = True
        self.queued -= 1
