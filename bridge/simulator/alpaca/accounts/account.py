"""One account as the simulated broker files it: plain data that can be copied whole.

It must hold no callback, engine or price, so that an older state can be kept and shown (a lagging REST answer).
Invariant: `open_orders` holds exactly the orders whose state is not final, legs included.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from bridge.simulator.alpaca.accounts.activities import Activity
from bridge.simulator.alpaca.accounts.ledger import Ledger
from bridge.simulator.alpaca.accounts.orders import Order, Status
from bridge.simulator.alpaca.market.catalogue import NAMESPACE, Asset
from bridge.simulator.alpaca.numbers import ZERO
from bridge.simulator.alpaca.refusals import missing

PAPER, LIVE = "paper", "live"
SAMPLES_KEPT = 10_000


@dataclass(slots=True)
class Configurations:
    """GET /v2/account/configurations (reference §1.3, after July 2026)."""

    fractional_trading: bool = True
    max_margin_multiplier: str = "4"
    no_shorting: bool = False
    suspend_trade: bool = False
    trade_confirm_email: str = "all"
    ptp_no_exception_entry: bool = False
    max_options_trading_level: int | None = None
    disable_overnight_trading: bool = False


@dataclass(slots=True)
class Account:
    """An account of `user` in `environment`. `activities` and `samples` (Unix s, equity) are oldest first."""

    id: str
    number: str
    user: int
    environment: str
    created_ns: int
    currency: str = "USD"
    options_level: int = 3
    ledger: Ledger = field(default_factory=Ledger)
    orders: dict[str, Order] = field(default_factory=dict)
    open_orders: dict[str, Order] = field(default_factory=dict)
    by_client_id: dict[str, str] = field(default_factory=dict)
    activities: list[Activity] = field(default_factory=list)
    configurations: Configurations = field(default_factory=Configurations)
    samples: deque[tuple[int, Decimal]] = field(default_factory=lambda: deque(maxlen=SAMPLES_KEPT))
    paid_in: Decimal = ZERO
    last_equity: Decimal = ZERO
    last_maintenance: Decimal = ZERO
    last_exposure: Decimal = ZERO  # value on margin at the last close
    last_balance_date: str = ""

    def order(self, order_id: str) -> Order:
        """Raises ApiRefusal (404)."""
        order = self.orders.get(order_id)
        if order is None:
            raise missing(f"order not found for {order_id}")
        return order

    def add(self, order: Order) -> None:
        """File a new order."""
        self.orders[order.id] = self.open_orders[order.id] = order
        self.by_client_id[order.client_order_id] = order.id

    def group_of(self, order: Order) -> list[Order]:
        """The open orders of its bracket, oco or oto, itself and replacements still to take effect left out."""
        if order.group is None:
            return []
        return [
            each
            for each in self.open_orders.values()
            if each.group == order.group and each is not order and not self.waits_to_replace(each)
        ]

    def waits_to_replace(self, order: Order) -> bool:
        """Whether it is a replacement that has not taken effect (and perhaps never will)."""
        return order.replaces is not None and self.orders[order.replaces].status is not Status.REPLACED

    def open_of(self, asset: Asset) -> Iterator[Order]:
        """Open orders in an asset."""
        return (each for each in self.open_orders.values() if each.asset is asset)

    def held_for_orders(self, asset: Asset) -> Decimal:
        """Units that open orders are going to close: of the exits of one group the larger counts."""
        groups: dict[str, Decimal] = {}
        for order in self.open_of(asset):
            if order.opens or self.waits_to_replace(order):
                continue
            key = order.group or order.id
            groups[key] = max(groups.get(key, ZERO), self._units_held(order))
        return sum(groups.values(), ZERO)

    def _units_held(self, order: Order) -> Decimal:
        """Units of the position that one closing order holds. An exit holds what its entry has bought so far; a sale
        by notional may need all there is until it is routed."""
        entry = self.open_orders.get(order.parent or "")
        if entry is not None and entry.role == "entry":
            return order.remaining - entry.remaining
        if order.notional is not None and order.target is None and order.asset is not None:
            return abs(self.ledger.qty(order.asset))
        newer = self.open_orders.get(order.replacement or "")
        if newer is not None and newer.qty is not None and not order.role:  # an exit's size is its group's affair
            return max(order.remaining, newer.qty - order.filled_qty)
        return order.remaining

    @property
    def can_trade(self) -> bool:
        return not self.configurations.suspend_trade


def account_id(user: int, environment: str) -> str:
    """The same in every run."""
    return str(uuid.uuid5(NAMESPACE, f"account:{environment}:{user}"))


def account_number(user: int, environment: str) -> str:
    """PA1000000n for paper, 1000000n for live."""
    return f"{'PA' if environment == PAPER else ''}{10_000_000 + user}"
