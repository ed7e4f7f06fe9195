"""What an account hub does by itself while it is live: reads the account after executions, polls prices.

Carries out `polling.Plan` with one timer and at most one task per account. A fault that ends the account is judged by
the hub; any other is counted and the plan waits.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from bridge.brokers.alpaca import normalize
from bridge.brokers.alpaca.budget import Priority
from bridge.brokers.alpaca.context import Context
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.market import Following
from bridge.brokers.alpaca.polling import Act, Held, Plan
from bridge.brokers.alpaca.pricing import disagrees, forget_unfed, take_prices
from bridge.brokers.alpaca.requests import Requests
from bridge.brokers.base import BrokerFault
from core.account import AccountMirror
from core.errors import ProtocolViolation


class Kept(Protocol):
    """An account hub, as far as its upkeep knows it."""

    account_id: str
    assets: Assets
    context: Context
    following: Following
    live: bool
    mirror: AccountMirror
    requests: Requests
    updates: int

    def judge(self, fault: BrokerFault) -> None:
        """Decide whether a failed request ends the account."""

    async def read(self, priority: Priority) -> int:
        """Read the account anew. Raises BrokerFault."""


class Upkeep:
    """The background work of one hub."""

    __slots__ = ("_hub", "_plan", "_task", "_timer")

    def __init__(self, hub: Kept) -> None:
        self._hub = hub
        self._plan = Plan(hub.context.settings)
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def read(self) -> None:
        """A whole reading was accepted, whoever wanted it."""
        self._plan.done(Act.READ, self._hub.context.clock.monotonic())
        self.replan()

    def ask(self, delay_s: float, now: float) -> None:
        """A reading is wanted, at the latest in `delay_s`; `now` monotonic seconds."""
        if self._plan.ask(now, delay_s):
            self.replan()

    def replan(self) -> None:
        """What is held, or what is told of its prices, may have changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._hub.live or self._task is not None:
            return
        due_at = self._plan.due_at(self._held())
        if due_at != math.inf:
            delay_s = max(due_at - self._hub.context.clock.monotonic(), 0.001)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def stop(self) -> None:
        """The account is live no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._plan = Plan(self._hub.context.settings)

    def _held(self) -> Held:
        hub = self._hub
        positions = hub.mirror.positions.values()
        if not positions:
            return Held.NOTHING
        fed = all(hub.following.covers(position.instrument_id) for position in positions)
        return Held.FED if fed else Held.UNFED

    def _on_timer(self) -> None:
        self._timer = None
        act = self._plan.next(self._hub.context.clock.monotonic(), self._held())
        if act is None or self._task is not None:
            self.replan()
            return
        self._plan.begin(act)
        self._task = self._hub.context.tasks.start(self._do(act), name=f"{act.name.lower()}-{self._hub.account_id}")

    async def _do(self, act: Act) -> None:
        hub, plan, requests = self._hub, self._plan, self._hub.requests
        try:
            if act is Act.READ:
                await hub.read(Priority.LOGIN)
            else:
                await self._poll(plan)
        except BrokerFault as fault:
            hub.context.stats.count(f"{act.name.lower()}s_failed")
            now = hub.context.clock.monotonic()
            plan.failed(act, now, fault.retry_after_s)
            if plan.outdated(now):
                forget_unfed(hub.mirror, hub.following)
            if act is Act.POLL and requests is hub.requests:
                hub.judge(fault)
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                self.replan()

    async def _poll(self, plan: Plan) -> None:
        """Prices and margin, which no update tells; cash and quantities only show whether something was missed."""
        hub, seen = self._hub, self._hub.updates
        account = await hub.requests.account(Priority.POLL)
        documents = await hub.requests.positions(Priority.POLL)
        now = hub.context.clock.monotonic()
        plan.done(Act.POLL, now)
        hub.context.stats.count("polls")
        try:
            settings, cash = normalize.account(account)
            held = [normalize.position(source, hub.assets) for source in documents]
            prices = normalize.prices(documents, hub.assets)
        except ProtocolViolation:
            hub.context.stats.count("quarantined")
            plan.ask(now, hub.context.settings.repair_delay_s)
            return
        take_prices(hub.mirror, hub.following, prices, now - hub.context.settings.slow_poll_s)
        if seen != hub.updates:
            return
        hub.mirror.apply_all([settings], hub.context.clock.now_ms())
        if disagrees(hub.mirror, held, cash):
            hub.context.stats.count("poll_disagreements")
            plan.ask(now, 0.0)
