"""Orders at rest: which prices wake a working order, and how a trailing stop order moves its stop.

Arms and disarms triggers and computes trailing stops; whether and how a woken order trades is `execution`'s work.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from core.orders import OrderType, Side
from core.paper_trader.conversion import EXACT
from core.paper_trader.market import Book
from core.paper_trader.state import Account, Desk, Working
from core.paper_trader.triggers import Kind, Trigger
from core.paper_trader.types import ZERO, Order

HUNDRED = Decimal(100)


def rest(desk: Desk, account: Account, working: Working, *, wait: bool = False) -> None:
    """Arm a working order's triggers; `wait`: look again at the next quote only."""
    disarm(account, working)
    book = account.market.book(working.order.instrument_id)
    working.triggers = _order_triggers(working.order, point_of(book))
    for trigger in working.triggers:
        if wait:
            book.triggers.arm(trigger)
        else:
            desk.arm(book, trigger)


def disarm(account: Account, working: Working) -> None:
    """Stop watching for a working order."""
    book = account.market.book(working.order.instrument_id)
    for trigger in working.triggers:
        book.triggers.disarm(trigger)
    working.triggers = []


def trailed(order: Order, price: Decimal, digits: int) -> Order:
    """A trailing stop order with its stop at its distance behind the best of `price` and what it has seen before."""
    pick = min if order.side is Side.BUY else max
    best = price if order.trail_extreme is None else pick(price, order.trail_extreme)
    distance = order.trail_amount or ZERO
    if order.trail_percent is not None:
        distance = best * order.trail_percent / HUNDRED
    stop = round(best + distance if order.side is Side.BUY else best - distance, digits)
    return replace(order, trail_extreme=best, stop_price=stop)


def point_of(book: Book) -> Decimal:
    """The smallest price step of the instrument."""
    return Decimal(1).scaleb(-book.listing.instrument.price_digits, context=EXACT)


def _order_triggers(order: Order, point: Decimal) -> list[Trigger]:
    """BUY orders watch the ask, SELL orders the bid: limits for a better price, stops for a worse one."""
    buys = order.side is Side.BUY

    def trigger(kind: Kind, level: Decimal | None, *, rising: bool) -> Trigger:
        return Trigger(kind, order.account_id, order.id, on_ask=buys, rising=rising, level=level)

    resting_stop = order.stop_price is not None and not order.triggered
    if resting_stop:
        triggers = [trigger(Kind.ORDER, order.stop_price, rising=buys)]
        if order.type is OrderType.TRAILING_STOP and order.trail_extreme is not None:
            better = order.trail_extreme - point if buys else order.trail_extreme + point
            triggers.append(trigger(Kind.ORDER_TRAIL, better, rising=not buys))
        return triggers
    if order.limit_price is not None and order.type in (OrderType.LIMIT, OrderType.STOP_LIMIT):
        return [trigger(Kind.ORDER, order.limit_price, rising=not buys)]
    return [trigger(Kind.ORDER, None, rising=buys)]


def is_immediate(order: Order) -> bool:
    """Whether an order is to be tried the moment it is accepted, rather than when a stop price is reached."""
    return order.stop_price is None or order.triggered
