"""What a place that trades says happened, in words that are the same in every place.

Ids differ from place to place, so orders go by the name they were placed under, and positions by the order that opened
them. Amounts and prices are Decimals; equal means equal to the last digit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from core.orders import Side
from core.paper_trader import (
    Event,
    MarginCall,
    Order,
    OrderExpired,
    OrderFilled,
    OrderPartiallyFilled,
    OrderRejected,
    OrderRole,
    Position,
    RequestRejected,
    SwapCharged,
)


@dataclass(frozen=True)
class Fill:
    """One deal. `by`: the order's name, or why it was made; `close`: what it settled, if it closed anything."""

    at_ms: int
    instrument_id: str
    by: str
    position: str
    side: Side
    units: Decimal
    price: Decimal
    commission: Decimal
    close: Closing | None


@dataclass(frozen=True)
class Closing:
    entry_price: Decimal
    units: Decimal
    gross: Decimal
    swap: Decimal
    commission: Decimal
    balance: Decimal
    balance_version: int


@dataclass(frozen=True)
class HeldRow:
    """An open position at a checkpoint."""

    name: str
    instrument_id: str
    side: Side
    units: Decimal
    entry_price: Decimal | None
    swap: Decimal
    commission: Decimal
    used_margin: Decimal
    stop_loss: Decimal | None
    take_profit: Decimal | None
    gross: Decimal | None
    net: Decimal | None


@dataclass(frozen=True)
class OrderRow:
    """A working order at a checkpoint."""

    name: str
    side: Side
    units: Decimal
    filled: Decimal
    limit_price: Decimal | None
    stop_price: Decimal | None
    expires_at_ms: int | None


@dataclass(frozen=True)
class Check:
    """An account at a checkpoint."""

    balance: Decimal
    balance_version: int
    equity: Decimal | None
    used_margin: Decimal
    free_margin: Decimal | None
    margin_level: Decimal | None
    positions: tuple[HeldRow, ...]
    orders: tuple[OrderRow, ...]


@dataclass
class Names:
    """Which order and which position goes by which name here."""

    orders: dict[str, int] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    of_order: dict[int, str] = field(default_factory=dict)
    of_position: dict[int, str] = field(default_factory=dict)

    def order(self, name: str, order_id: int) -> None:
        if name:
            self.orders[name], self.of_order[order_id] = order_id, name

    def position(self, position_id: int, by: str) -> str:
        """The name of a position; one not seen before is named after the order that fills."""
        if position_id not in self.of_position:
            self.of_position[position_id], self.positions[by] = by, position_id
        return self.of_position[position_id]


@dataclass
class Outcome:
    """Everything a place said, in order. `refusals`: (operation, broker's code, what it was about)."""

    names: Names = field(default_factory=Names)
    fills: list[Fill] = field(default_factory=list)
    swaps: list[tuple[int, str, Decimal]] = field(default_factory=list)
    calls: list[tuple[int, Decimal]] = field(default_factory=list)
    refusals: list[tuple[str, str, str]] = field(default_factory=list)
    checks: dict[int, Check] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def take(self, event: Event) -> None:
        """Note an event of the engine's own, as the paper account and the backtester tell them."""
        names = self.names
        order = getattr(event, "order", None)
        if isinstance(order, Order):
            names.order(order.client_order_id or "", order.id)
        if isinstance(event, OrderFilled | OrderPartiallyFilled):
            self._fill(event)
        elif isinstance(event, SwapCharged):
            self.swaps.append((event.at_ms, names.of_position[event.position.id], event.position.swap))
        elif isinstance(event, OrderRejected):
            self.refusals.append(("place", event.code.value, names.of_order[event.order.id]))
        elif isinstance(event, MarginCall):
            self.calls.append((event.at_ms, event.threshold))
        elif isinstance(event, OrderExpired):
            self.counts["expired"] += 1
        elif isinstance(event, RequestRejected):
            about = (
                event.client_order_id
                or (names.of_order.get(event.order_id) if event.order_id is not None else None)
                or (names.of_position.get(event.position_id) if event.position_id is not None else None)
            )
            self.refusals.append((event.operation.value, event.code.value, str(about)))

    def held(self, position: Position, gross: Decimal | None, net: Decimal | None) -> HeldRow:
        return HeldRow(
            self.names.of_position[position.id],
            position.instrument_id,
            position.side,
            position.units,
            position.entry_price,
            position.swap,
            position.commission,
            position.used_margin,
            position.stop_loss,
            position.take_profit,
            gross,
            net,
        )

    def _fill(self, event: OrderFilled | OrderPartiallyFilled) -> None:
        deal, close = event.deal, event.deal.close
        self.fills.append(
            Fill(
                deal.executed_at_ms,
                deal.instrument_id,
                who(event.order),
                self.names.position(deal.position_id, who(event.order)),
                deal.side,
                deal.filled_units,
                deal.price,
                deal.commission,
                close
                and Closing(
                    close.entry_price,
                    close.closed_units,
                    close.gross_profit,
                    close.swap,
                    close.commission,
                    close.balance,
                    close.balance_version,
                ),
            )
        )


def who(order: Order) -> str:
    """The name of an order, or why the broker made it."""
    if order.is_stop_out:
        return "stop out"
    if order.role is OrderRole.TRADE:
        return order.client_order_id or ""
    return order.role.value


def order_row(order: Order) -> OrderRow:
    return OrderRow(
        order.client_order_id or "",
        order.side,
        order.units,
        order.filled_units,
        order.limit_price,
        order.stop_price,
        order.expires_at_ms,
    )
