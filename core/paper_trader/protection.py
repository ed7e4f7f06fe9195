"""Stop loss, take profit and trailing stop of positions, carried by one protection order per position.

Sets, moves and removes protection and arms its triggers; executing one that was hit is `execution`'s work.
Invariant: a position has a protection order exactly while it has a stop loss or a take profit, and that order's
remaining units are the position's.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from core.orders import OrderType, Side, TimeInForce
from core.paper_trader.events import ProtectionAccepted, ProtectionCancelled, ProtectionReplaced, TrailingStopMoved
from core.paper_trader.market import Book
from core.paper_trader.state import Account, Desk, Holding
from core.paper_trader.triggers import Kind, Trigger
from core.paper_trader.types import Order, OrderRole, OrderState


def set_protection(
    desk: Desk,
    account: Account,
    holding: Holding,
    stop_loss: Decimal | None,
    take_profit: Decimal | None,
    *,
    trailing: bool,
    by_server: bool,
) -> None:
    """Replace a position's protection as a whole; None removes a leg, both None remove the order."""
    book = account.market.book(holding.position.instrument_id)
    if stop_loss is None and take_profit is None:
        drop_protection(desk, account, holding, by_server=by_server)
        return
    trailing = trailing and stop_loss is not None
    position = holding.position
    order = _protection_order(desk, account, holding, stop_loss, take_profit, trailing=trailing)
    holding.position = replace(
        position,
        stop_loss=stop_loss,
        take_profit=take_profit,
        trailing_stop_loss=trailing,
        protection_order_id=order.id,
        updated_at_ms=desk.now_ms,
    )
    holding.trail_distance = None
    if trailing and stop_loss is not None:
        price = book.closing_price(position.side) or position.entry_price or stop_loss
        holding.trail_distance = abs(price - stop_loss)
    kind = ProtectionAccepted if holding.protection is None else ProtectionReplaced
    holding.protection = order
    desk.emit(
        kind(account_id=account.id, at_ms=desk.now_ms, by_server=by_server, order=order, position=holding.position)
    )
    arm_protection(desk, account, holding)


def protect_from_order(desk: Desk, account: Account, holding: Holding, order: Order, *, by_server: bool) -> None:
    """Give a position the stop loss and take profit its order carries; legs the order lacks stay as they are."""
    position = holding.position
    digits = account.market.book(position.instrument_id).listing.instrument.price_digits
    sign = 1 if position.side is Side.BUY else -1
    entry = position.entry_price or Decimal(0)  # an open position always has one

    def leg(absolute: Decimal | None, relative: Decimal | None, direction: int) -> Decimal | None:
        if relative is None:
            return absolute
        price = round(entry + relative * direction, digits)
        return price if price > 0 else None

    stop_loss = leg(order.stop_loss, order.relative_stop_loss, -sign)
    take_profit = leg(order.take_profit, order.relative_take_profit, sign)
    if stop_loss is None and take_profit is None:
        return
    set_protection(
        desk,
        account,
        holding,
        stop_loss or position.stop_loss,
        take_profit or position.take_profit,
        trailing=order.trailing_stop_loss if stop_loss is not None else position.trailing_stop_loss,
        by_server=by_server,
    )


def resize_protection(desk: Desk, account: Account, holding: Holding, *, by_server: bool) -> None:
    """Let the protection order follow the position's units."""
    order = holding.protection
    if order is None:
        return
    units = order.filled_units + holding.position.units
    if units == order.units:
        return
    holding.protection = replace(order, units=units, updated_at_ms=desk.now_ms)
    desk.emit(
        ProtectionReplaced(
            account_id=account.id,
            at_ms=desk.now_ms,
            by_server=by_server,
            order=holding.protection,
            position=holding.position,
        )
    )


def drop_protection(desk: Desk, account: Account, holding: Holding, *, by_server: bool) -> None:
    """Remove the protection order: asked for, or its position has closed."""
    disarm_protection(account, holding)
    order, holding.protection = holding.protection, None
    if order is None:
        return
    order = replace(order, state=OrderState.CANCELLED, updated_at_ms=desk.now_ms)
    account.finished.append(order)
    holding.trail_distance = None
    holding.position = replace(
        holding.position,
        stop_loss=None,
        take_profit=None,
        trailing_stop_loss=False,
        protection_order_id=None,
        updated_at_ms=desk.now_ms,
    )
    desk.emit(
        ProtectionCancelled(
            account_id=account.id, at_ms=desk.now_ms, by_server=by_server, order=order, position=holding.position
        )
    )


def pull_trailing_stop(desk: Desk, account: Account, holding: Holding) -> None:
    """Move a trailing stop to its distance behind the present closing price.

    Called when the price is at least a point better than where the stop was last set from, so it never moves backwards.
    """
    position, order, distance = holding.position, holding.protection, holding.trail_distance
    price = account.market.book(position.instrument_id).closing_price(position.side)
    if order is None or distance is None or price is None or order.triggered:
        return
    stop = price - distance if position.side is Side.BUY else price + distance
    holding.position = replace(position, stop_loss=stop, updated_at_ms=desk.now_ms)
    holding.protection = replace(order, stop_price=stop, updated_at_ms=desk.now_ms)
    desk.emit(
        TrailingStopMoved(
            account_id=account.id,
            at_ms=desk.now_ms,
            by_server=True,
            position=holding.position,
            order_id=order.id,
            stop_price=stop,
        )
    )
    arm_protection(desk, account, holding)


def arm_protection(desk: Desk, account: Account, holding: Holding, *, wait: bool = False) -> None:
    """Watch for the stop loss, the take profit and the next trailing step.

    `wait`: look again at the next quote only; for a protection that was hit and could not (fully) trade.
    """
    disarm_protection(account, holding)
    book = account.market.book(holding.position.instrument_id)
    holding.triggers = _triggers(holding, book)
    for trigger in holding.triggers:
        if wait:
            book.triggers.arm(trigger)
        else:
            desk.arm(book, trigger)


def disarm_protection(account: Account, holding: Holding) -> None:
    """Stop watching."""
    book = account.market.book(holding.position.instrument_id)
    for trigger in holding.triggers:
        book.triggers.disarm(trigger)
    holding.triggers = []


def _triggers(holding: Holding, book: Book) -> list[Trigger]:
    """A long closes at the bid: its stop lies below, its target above. A short mirrors that on the ask."""
    position, order = holding.position, holding.protection
    if order is None:
        return []
    long = position.side is Side.BUY

    def trigger(kind: Kind, level: Decimal | None, *, rising: bool) -> Trigger:
        return Trigger(kind, position.account_id, position.id, on_ask=not long, rising=rising, level=level)

    if order.triggered:
        return [trigger(Kind.STOP_LOSS, None, rising=not long)]
    triggers = []
    if position.stop_loss is not None:
        triggers.append(trigger(Kind.STOP_LOSS, position.stop_loss, rising=not long))
        if holding.trail_distance is not None:
            point = Decimal(1).scaleb(-book.listing.instrument.price_digits)
            step = holding.trail_distance + point
            level = position.stop_loss + step if long else position.stop_loss - step
            triggers.append(trigger(Kind.TRAIL, level, rising=long))
    if position.take_profit is not None:
        triggers.append(trigger(Kind.TAKE_PROFIT, position.take_profit, rising=long))
    return triggers


def _protection_order(
    desk: Desk,
    account: Account,
    holding: Holding,
    stop_loss: Decimal | None,
    take_profit: Decimal | None,
    *,
    trailing: bool,
) -> Order:
    position, old = holding.position, holding.protection
    kind = OrderType.LIMIT if stop_loss is None else OrderType.STOP
    if old is not None:
        return replace(
            old,
            type=kind,
            units=old.filled_units + position.units,
            stop_price=stop_loss,
            limit_price=take_profit,
            trailing_stop_loss=trailing,
            triggered=False,
            updated_at_ms=desk.now_ms,
        )
    return Order(
        id=desk.new_order_id(),
        account_id=account.id,
        instrument_id=position.instrument_id,
        role=OrderRole.PROTECTION,
        side=position.side.opposite,
        type=kind,
        time_in_force=TimeInForce.GTC,
        units=position.units,
        created_at_ms=desk.now_ms,
        updated_at_ms=desk.now_ms,
        stop_price=stop_loss,
        limit_price=take_profit,
        trailing_stop_loss=trailing,
        position_id=position.id,
    )
