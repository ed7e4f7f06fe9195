"""Rebuilds accounts from the engine's events alone, and checks each event against the books kept so far.

Independent of the engine's own state: what it ends up with must equal what the engine says it holds. It knows nothing
about prices or margins; it adds up what the deals say.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from core.orders import OrderType, Side
from core.paper_trader import (
    BalanceChanged,
    CashMoved,
    Deal,
    Event,
    MarginChanged,
    Order,
    OrderAccepted,
    OrderCancelled,
    OrderExpired,
    OrderFilled,
    OrderPartiallyFilled,
    OrderRejected,
    OrderReplaced,
    OrderRole,
    OrderState,
    OrderTriggered,
    Position,
    PositionStatus,
    ProtectionAccepted,
    ProtectionCancelled,
    ProtectionReplaced,
    SwapCharged,
    TrailingStopMoved,
)


class Follower:
    """One account as its events tell it."""

    def __init__(self) -> None:
        self.positions: dict[int, Position] = {}
        self.orders: dict[int, Order] = {}
        self.protections: dict[int, Order] = {}
        self.cash = Decimal(0)
        self.realised = Decimal(0)
        self.balance = Decimal(0)
        self.version = 0
        self.filled: dict[int, Decimal] = {}
        self.opened: dict[int, Decimal] = {}
        self.closed: dict[int, Decimal] = {}

    def apply(self, event: Event) -> None:
        match event:
            case OrderFilled() | OrderPartiallyFilled():
                self._deal(event)
            case OrderAccepted(order=order):
                assert order.id not in self.orders
                self.orders[order.id] = order
            case OrderReplaced(order=order) | OrderTriggered(order=order):
                assert order.id in self.orders
                self.orders[order.id] = order
            case OrderCancelled(order=order) | OrderExpired(order=order) | OrderRejected(order=order):
                assert order.filled_units == self.filled.get(order.id, 0)
                del self.orders[order.id]
            case ProtectionAccepted() | ProtectionReplaced() | ProtectionCancelled() | TrailingStopMoved():
                self._protection(event)
            case SwapCharged(position=position, amount=amount):
                assert position.swap == self.positions[position.id].swap + amount
                self.positions[position.id] = position
            case MarginChanged(position_id=position_id, used_margin=used):
                self.positions[position_id] = replace(self.positions[position_id], used_margin=used)
            case CashMoved() | BalanceChanged():
                self._money(event)

    def _protection(
        self, event: ProtectionAccepted | ProtectionReplaced | ProtectionCancelled | TrailingStopMoved
    ) -> None:
        position = event.position
        match event:
            case TrailingStopMoved(order_id=order_id, stop_price=stop):
                before = self.positions[position.id].stop_loss
                assert before is not None
                assert (stop > before) == (position.side is Side.BUY)
                assert position.stop_loss == stop
                assert order_id in self.protections
            case ProtectionCancelled(order=order):
                del self.protections[order.id]
            case ProtectionAccepted(order=order) | ProtectionReplaced(order=order):
                assert (order.id in self.protections) == isinstance(event, ProtectionReplaced)
                assert order.remaining_units == position.units
                assert order.side is position.side.opposite
                assert (position.stop_loss, position.take_profit) == (order.stop_price, order.limit_price)
                assert position.protection_order_id == order.id
                self.protections[order.id] = order
        if position.status is PositionStatus.OPEN:
            self.positions[position.id] = position

    def _money(self, event: CashMoved | BalanceChanged) -> None:
        assert event.balance_version == self.version + 1
        assert event.balance == self.balance + event.delta
        if isinstance(event, CashMoved):
            self.cash += event.delta
        else:
            self.version, self.balance = event.balance_version, event.balance

    def _deal(self, event: OrderFilled | OrderPartiallyFilled) -> None:
        order, deal, position = event.order, event.deal, event.position
        assert deal.filled_units > 0
        assert deal.position_id == position.id
        self.filled[order.id] = self.filled.get(order.id, Decimal(0)) + deal.filled_units
        assert order.filled_units == self.filled[order.id]
        _check_price(order, deal)
        working = self.protections if order.role is OrderRole.PROTECTION else self.orders
        if isinstance(event, OrderFilled):
            assert (order.filled_units, order.state) == (order.units, OrderState.FILLED)
            del working[order.id]
        else:
            assert 0 < order.filled_units < order.units
            working[order.id] = order
        if deal.close is None:
            assert position.side is order.side
            self.opened[position.id] = self.opened.get(position.id, Decimal(0)) + deal.filled_units
        else:
            assert position.side is order.side.opposite
            assert deal.close.closed_units == deal.filled_units
            self.closed[position.id] = self.closed.get(position.id, Decimal(0)) + deal.filled_units
            self.realised += deal.close.gross_profit + deal.close.swap + deal.close.commission
        assert position.units == self.opened[position.id] - self.closed.get(position.id, 0)
        if position.status is PositionStatus.CLOSED:
            assert (position.units, position.swap, position.commission, position.used_margin) == (0, 0, 0, 0)
            del self.positions[position.id]
        else:
            assert position.units > 0
            self.positions[position.id] = position


def _check_price(order: Order, deal: Deal) -> None:
    """No fill outside the limit."""
    if order.type in (OrderType.LIMIT, OrderType.STOP_LIMIT) and order.role is OrderRole.TRADE:
        assert order.limit_price is not None
        within = deal.price <= order.limit_price if order.side is Side.BUY else deal.price >= order.limit_price
        assert within, f"{order.side} limit {order.limit_price} filled at {deal.price}"
