"""The turn of each request of one account: carries out what `budget.Budget` decides, with futures and one timer.

No task of its own and no retry. Whoever enters leaves again, answered or not.
"""

from __future__ import annotations

import asyncio

from bridge.brokers.alpaca import faults
from bridge.brokers.alpaca.budget import Budget, Priority, Ticket
from bridge.brokers.alpaca.rest import Rates
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import BrokerFault, ReasonCode
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock
from core.errors import Unavailable

_SHORTEST_TIMER_S = 0.001

Turn = Ticket[asyncio.Future[None]]


class Gate:
    """The request budget of one account; it outlives connections and logins."""

    __slots__ = ("_budget", "_clock", "_settings", "_stats", "_timer", "_waiting")

    def __init__(self, settings: AlpacaSettings, clock: Clock, stats: Stats) -> None:
        self._settings = settings
        self._clock = clock
        self._stats = stats
        self._budget: Budget[asyncio.Future[None]] = Budget(
            settings.requests_per_minute,
            settings.requests_reserved,
            settings.window_s,
            settings.aging_s,
            settings.max_queue,
        )
        self._waiting: set[Turn] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, priority: Priority, timeout_s: float) -> Turn:
        """Wait for a turn; always follow with `leave`. Raises a THROTTLE BrokerFault when none comes in time."""
        now = self._clock.monotonic()
        held_s = self._budget.held_until - now
        if held_s >= timeout_s:
            raise faults.throttled(held_s)
        turn: Turn = Ticket(priority, now, now + timeout_s, asyncio.get_running_loop().create_future())
        try:
            self._budget.submit(turn)
        except Unavailable as error:
            self._stats.count("requests.refused_locally")
            raise faults.throttled(1.0) from error
        self._waiting.add(turn)
        self._pump()
        try:
            await turn.context
        except asyncio.CancelledError:
            self.leave(turn)
            raise
        finally:
            self._waiting.discard(turn)
        return turn

    def leave(self, turn: Turn) -> None:
        """The request was answered or given up. Harmless when repeated."""
        self._budget.give_up(turn)
        self._budget.settle(turn)
        self._pump()

    def observe(self, rates: Rates) -> None:
        """What the headers of an answer say of the budget, after `leave`."""
        if rates.limit is None or rates.remaining is None or rates.resets_in_s is None:
            return
        now = self._clock.monotonic()
        self._budget.observe(rates.limit, rates.remaining, now + rates.resets_in_s, now)

    def refused(self, rates: Rates) -> float:
        """There were too many requests; returns how many seconds nothing leaves now."""
        said = rates.retry_after_s if rates.retry_after_s is not None else rates.resets_in_s
        wait_s = min(max(self._settings.throttle_s if said is None else said, 1.0), self._settings.throttle_cap_s)
        self._budget.refused(self._clock.monotonic() + wait_s)
        return wait_s

    def close(self) -> None:
        """Nobody uses this account any more: whoever still waits is told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for turn in tuple(self._waiting):
            self._budget.give_up(turn)
            _fail(turn, faults.transient(ReasonCode.CONNECTION_LOST, "The account was left."))

    def _pump(self) -> None:
        now = self._clock.monotonic()
        for turn in self._budget.overdue(now):
            self._stats.count("requests.no_turn")
            _fail(turn, faults.throttled(max(self._budget.held_until - now, 1.0)))
        while (ready := self._budget.take(now)) is not None:
            if ready.context.done():  # given up by its owner in this very turn of the loop
                self._budget.settle(ready)
            else:
                ready.context.set_result(None)
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._budget.wake_at(now)
        if when is not None:
            delay_s = max(when - now, _SHORTEST_TIMER_S)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()


def _fail(turn: Turn, fault: BrokerFault) -> None:
    if not turn.context.done():
        turn.context.set_exception(fault)
        turn.context.exception()  # taken note of: its owner may have given up
