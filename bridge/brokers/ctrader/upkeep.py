"""What an account hub does in the background while it is live: follow prices, reread symbols, repair.

At most one task of each kind per account, and none while there is nothing to do. A fault that ends the account's
authorisation is judged by the hub; any other is counted and tried again later, at the latest by the next reconcile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from bridge.brokers.base import BrokerFault
from bridge.brokers.ctrader.context import Context
from bridge.brokers.ctrader.market import Asker, Market
from bridge.brokers.ctrader.price_classes import Kind
from bridge.brokers.ctrader.sharing import Sharing
from core.account import AccountMirror
from core.valuation import needed_quotes

_FOLLOW_DELAYS_S = (0.0, 1.0, 5.0, 15.0)


class Kept(Asker, Protocol):
    """An account hub, as far as its upkeep knows it."""

    context: Context
    live: bool
    market: Market | None
    mirror: AccountMirror
    symbols: dict[int, str]
    kind: Kind | None

    @property
    def sharing(self) -> Sharing | None:
        """The shared subscriptions of its channel, if they are shared."""

    def judge(self, fault: BrokerFault) -> None:
        """Decide whether a failed request ends the account's authorisation."""

    async def reconcile(self) -> int:
        """Read the account anew. Raises BrokerFault."""


class Upkeep:
    """The background work of one hub."""

    __slots__ = ("_feed", "_following", "_hub", "_repair_timer")

    def __init__(self, hub: Kept, feed: Callable[[], Awaitable[None]]) -> None:
        """`feed` brings the subscriptions in step with what is held. Raises BrokerFault."""
        self._hub = hub
        self._feed = feed
        self._following: asyncio.Task[None] | None = None
        self._repair_timer: asyncio.TimerHandle | None = None

    def follow(self) -> None:
        """Keep the price subscriptions in step with what is held, and describe what orders wait for."""
        hub = self._hub
        if not hub.live or (self._following is not None and not self._following.done()):
            return
        if _unfed(hub) or _nameless(hub.mirror):
            self._following = hub.context.tasks.start(self._follow(), name=f"follow-{hub.number}")

    def reread(self, symbol_ids: tuple[int, ...]) -> None:
        """The broker changed these symbols."""
        self._hub.context.tasks.start(self._reread(symbol_ids), name=f"symbols-{self._hub.number}")

    def describe(self, symbol_id: int) -> None:
        """Something was traded that nobody described yet, and may not be held any more: its name is wanted."""
        self._hub.context.tasks.start(self._describe(symbol_id), name=f"describe-{self._hub.number}")

    def repair_soon(self) -> None:
        """Read the account anew in a moment; what else goes wrong until then is repaired with it."""
        if self._repair_timer is None:
            delay_s = self._hub.context.settings.repair_delay_s
            self._repair_timer = asyncio.get_running_loop().call_later(delay_s, self._start_repair)

    def stop(self) -> None:
        """The account is being left."""
        if self._repair_timer is not None:
            self._repair_timer.cancel()
            self._repair_timer = None

    async def _follow(self) -> None:
        for delay_s in _FOLLOW_DELAYS_S:
            await asyncio.sleep(delay_s)
            if not self._hub.live:
                return
            try:
                await self._feed()
            except BrokerFault as fault:
                self._failed(fault)
            else:
                self._hub.mirror.mark_dirty()  # what was read before may have lacked a name
                return
        if (sharing := self._hub.sharing) is not None:
            sharing.gave_up(self._hub.number)

    async def _reread(self, symbol_ids: tuple[int, ...]) -> None:
        if self._hub.market is None:
            return
        try:
            await self._hub.market.reread(symbol_ids, self._hub)
        except BrokerFault as fault:
            self._failed(fault)

    async def _describe(self, symbol_id: int) -> None:
        if self._hub.market is None:
            return
        try:
            await self._hub.market.describe((symbol_id,), self._hub)
        except BrokerFault as fault:
            self._failed(fault)

    def _failed(self, fault: BrokerFault) -> None:
        self._hub.context.stats.count("feed_failures")
        self._hub.judge(fault)

    def _start_repair(self) -> None:
        self._repair_timer = None
        if self._hub.live:
            self._hub.context.tasks.start(self._repair(), name=f"repair-{self._hub.number}")

    async def _repair(self) -> None:
        self._hub.context.stats.count("repairs")
        try:
            await self._hub.reconcile()
        except BrokerFault:
            self._hub.context.stats.count("repairs_failed")


def _unfed(hub: Kept) -> bool:
    """True when its price subscriptions are not those that it should have, given what it holds."""
    needed = needed_quotes(hub.mirror)
    if (sharing := hub.sharing) is None or hub.kind is None:
        return needed != set(hub.symbols.values())
    return sharing.board.due(hub.number, hub.kind, frozenset(int(key) for key in needed))


def _nameless(mirror: AccountMirror) -> bool:
    """True when an order waits for something that is not described: no price is needed for it, but a name is."""
    instruments = mirror.catalogue.instruments
    return any(order.instrument_id not in instruments for order in mirror.orders.values())
