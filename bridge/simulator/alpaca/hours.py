"""What time does to orders: opening and closing of the market, auctions, expiry, and what takes effect a moment later.

By default the simulated market is open at all hours; auctions then happen at 09:30 and 16:00 in New York and DAY orders
end at 16:00 (20:00 with extended hours) of a weekday. Closed by hand, stock and option orders wait outside the market.
Source: reference/alpaca.md §8.1 (OPG and CLS are market orders at the open and at the close), §8.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.orders import Order, Status
from bridge.simulator.alpaca.market.calendar import next_close_ms, next_open_ms
from bridge.simulator.alpaca.requests import replacing
from bridge.simulator.alpaca.stamps import MS_NS, eastern
from bridge.simulator.alpaca.trading import multileg
from bridge.simulator.alpaca.trading.desk import Desk

STATES = ("open", "extended", "closed")
# An order whose cancel is on its way is not brought back.
RESUMED = (Status.NEW, Status.PARTIALLY_FILLED, Status.PENDING_REPLACE)
SAMPLE_S = 60


class Hours:
    """The market's clockwork."""

    def __init__(self, desk: Desk, now_ms: int) -> None:
        self._desk = desk
        self._next_open_ms = next_open_ms(now_ms)
        self._next_close_ms = next_close_ms(now_ms)
        self._sampled_s = 0

    def advance(self, now_ms: int) -> None:
        """Do everything that fell due by now, and try rests of partial fills again."""
        desk = self._desk
        desk.now_ms = max(desk.now_ms, now_ms)
        if desk.now_ms >= self._next_open_ms:
            self._next_open_ms = next_open_ms(desk.now_ms)
            if desk.state == "open":
                self._auction("opg")
        if desk.now_ms >= self._next_close_ms:
            self._next_close_ms = next_close_ms(desk.now_ms)
            self.end_session()
        self._settle_pending()
        self._expire()
        desk.retry_rests()
        if desk.now_ms // 1000 >= self._sampled_s + SAMPLE_S:
            self.sample()

    def set_state(self, state: str, now_ms: int) -> None:
        """Open, close, or leave open to extended-hours orders only."""
        desk = self._desk
        desk.now_ms = max(desk.now_ms, now_ms)
        before = desk.state
        if before == "open" and state != "open":
            self._auction("cls")
        desk.state = state
        for account, order in self._orders():
            if order.engine_id is not None and not desk.may_work(order):
                desk.unroute(account, order)
        for account, order in self._orders():
            self._resume(account, order)
        for account, order in list(desk.combos.values()):
            multileg.attempt(desk, account, order)
        if before != "open" and state == "open":
            self._auction("opg")

    def end_session(self) -> None:
        """The close: CLS orders, then what is remembered of the day. (DAY orders end by their own time.)"""
        desk = self._desk
        if desk.state == "open":
            self._auction("cls")
        last = {asset.id: desk.prices.last_of(asset) for asset in desk.catalogue.assets}
        desk.prices.close_day()
        day = eastern(desk.now_ms * MS_NS).date().isoformat()
        for account in desk.accounts.values():
            now = desk.figures(account)
            account.ledger.close_day(last)
            account.last_equity, account.last_maintenance = now.equity, now.maintenance
            account.last_exposure, account.last_balance_date = now.exposure, day

    def sample(self) -> None:
        """Note every account's equity for the portfolio history."""
        self._sampled_s = self._desk.now_ms // 1000
        for account in self._desk.accounts.values():
            account.samples.append((self._sampled_s, self._desk.figures(account).equity))

    def _auction(self, time_in_force: str) -> None:
        for account, order in self._orders():
            if order.time_in_force == time_in_force and order.status is Status.ACCEPTED:
                self._desk.start(account, order)

    def _resume(self, account: Account, order: Order) -> None:
        """Take a waiting order to the market, if that takes it now."""
        desk = self._desk
        if not desk.may_work(order) or order.engine_id is not None:
            return
        if order.status is Status.ACCEPTED and not account.waits_to_replace(order):
            desk.start(account, order)
        elif order.status in RESUMED and order.asset is not None:
            desk.route(account, order)

    def _settle_pending(self) -> None:
        desk = self._desk
        due = [key for key, (_, order) in desk.pending.items() if order.effective_ms <= desk.now_ms]
        for key in due:
            account, order = desk.pending.pop(key)
            if order.replacement is not None:
                replacing.take_effect(desk, account, order)
            else:
                desk.end(account, order, Status.CANCELED, "canceled")

    def _expire(self) -> None:
        desk = self._desk
        if desk.next_expiry_ms is None or desk.next_expiry_ms > desk.now_ms:
            return
        for account, order in self._orders():
            waits = account.waits_to_replace(order)
            if order.expires_ms is not None and order.expires_ms <= desk.now_ms and not waits:
                desk.end(account, order, Status.EXPIRED, "expired")
        left = [order.expires_ms for _, order in self._orders() if order.expires_ms is not None]
        desk.next_expiry_ms = min(left, default=None)

    def _orders(self) -> Iterator[tuple[Account, Order]]:
        """Open orders of all accounts that stay open while they are walked through, legs of many left out."""
        for account in self._desk.accounts.values():
            for order in list(account.open_orders.values()):
                if not order.is_final and order.ratio_qty is None:
                    yield account, order
