"""Trying to trade: fills for orders and hit protections, and what follows from them.

Takes an order whose time has come, asks `matching` what can trade, `portfolio` to book it, and leaves the order filled,
resting, cancelled or rejected. Triggers that fired come in through `dispatch`.
Invariant: after each call the order is either final and in the history, or working with its triggers armed.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from core.paper_trader.conversion import EXACT
from core.paper_trader.events import OrderCancelled, OrderExpired, OrderRejected, OrderReplaced, OrderTriggered
from core.paper_trader.margin import margin_after, margin_for_units
from core.paper_trader.market import Book
from core.paper_trader.matching import Fill, plan_fills, worst_price
from core.paper_trader.portfolio import book_fill, can_price, closing_units, most_units, target_of
from core.paper_trader.protection import (
    arm_protection,
    disarm_protection,
    drop_protection,
    protect_from_order,
    pull_trailing_stop,
    resize_protection,
)
from core.paper_trader.resting import disarm, point_of, rest, trailed
from core.paper_trader.rules import AT_ONCE, Refusal, check_now, check_opening
from core.paper_trader.settings import Access, AccountType, TradingMode
from core.paper_trader.state import Account, Desk, Holding, Working
from core.paper_trader.triggers import Kind, Trigger
from core.paper_trader.truth import totals
from core.paper_trader.types import ZERO, Code, Order, OrderRole, OrderState, Position, PositionStatus


def dispatch(desk: Desk, trigger: Trigger) -> None:
    """Act on a trigger that fired; void when its owner is gone or has armed others since."""
    account = desk.accounts[trigger.account_id]
    if trigger.kind is Kind.MARGIN:
        desk.touch(account)
        return
    if trigger.kind in (Kind.ORDER, Kind.ORDER_TRAIL):
        working = account.working.get(trigger.owner_id)
        if working is not None and trigger in working.triggers:
            wake = _pull_order if trigger.kind is Kind.ORDER_TRAIL else _wake_order
            wake(desk, account, working)
        return
    holding = account.holdings.get(trigger.owner_id)
    if holding is None or trigger not in holding.triggers:
        return
    if trigger.kind is Kind.TRAIL:
        pull_trailing_stop(desk, account, holding)
    else:
        _hit(desk, account, holding, trigger.kind)


def execute(desk: Desk, account: Account, working: Working, *, by_server: bool) -> None:
    """Fill what can be filled of a working order now; cancel, reject or rest what cannot."""
    order = working.order
    book = account.market.book(order.instrument_id)
    disarm(account, working)
    if not may_execute(account, book, order):
        _after_fill(desk, account, working, by_server=by_server)
        return
    plan = _plan(desk, account, book, order, worst_price(order, point_of(book)))
    if plan:
        refusal = affordable(account, book, order, sum((fill.units for fill in plan), ZERO))
        if refusal is not None and refusal.code is not Code.NO_QUOTES:
            _refuse(desk, account, working, refusal, by_server=by_server)
            return
        if refusal is None:
            working.order = _trade(desk, account, book, order, plan, by_server=by_server)
    _after_fill(desk, account, working, by_server=by_server)


def may_execute(account: Account, book: Book, order: Order) -> bool:
    """Whether the market, the account and the known prices let this order trade at this moment."""
    if check_now(book, order.side) is not None or account.settings.access is Access.READ_ONLY:
        return False
    if book.listing.trading_mode is TradingMode.DISABLED or not can_price(account, book):
        return False
    units = most_units(account, order)
    opens = closing_units(account, order, units) < units
    return not opens or check_opening(account, book.listing, order.side) is None


def affordable(account: Account, book: Book, order: Order, units: Decimal) -> Refusal | None:
    """Whether the account can carry what these units would open."""
    closing = closing_units(account, order, units)
    if closing == units:
        return None
    target = target_of(account, order)
    most = account.settings.max_positions
    if target is None and most is not None and len(account.holdings) >= most:
        return Refusal(Code.TOO_MANY_POSITIONS, f"No more than {most} positions are allowed")
    after = margin_after_order(account, book, order, units)
    now = totals(account)
    if after is None or now.equity is None:
        return Refusal(Code.NO_QUOTES, "Not enough quotes to compute the margin")
    if after >= now.used_margin and after > now.equity:
        return Refusal(Code.NOT_ENOUGH_MONEY, "Not enough money to open the position")
    return None


def margin_after_order(account: Account, book: Book, order: Order, units: Decimal) -> Decimal | None:
    """The account's used margin once that many units of the order are filled; None while a rate is missing."""
    closing = closing_units(account, order, units)
    target = target_of(account, order)
    freed = ZERO
    if target is not None and closing > 0:
        freed = EXACT.divide(target.position.used_margin * closing, target.position.units)
    added = margin_for_units(account, book.listing, units - closing)
    return None if added is None else margin_after(account, order.instrument_id, freed, order.side, added)


def finish(desk: Desk, account: Account, working: Working, state: OrderState) -> Order:
    """Take an order out of the working ones into the history, in its final state."""
    disarm(account, working)
    del account.working[working.order.id]
    if working.order.state is not state:
        working.order = replace(working.order, state=state, updated_at_ms=desk.now_ms)
    account.finished.append(working.order)
    return working.order


def cancel_order(desk: Desk, account: Account, working: Working, *, by_server: bool) -> None:
    """End a working order; what is filled stays filled."""
    order = finish(desk, account, working, OrderState.CANCELLED)
    desk.emit(
        OrderCancelled(
            account_id=account.id,
            at_ms=desk.now_ms,
            by_server=by_server,
            order=order,
            position=_filled_position(account, order),
        )
    )


def expire_order(desk: Desk, account: Account, working: Working) -> None:
    """End an order whose time is up."""
    order = finish(desk, account, working, OrderState.EXPIRED)
    desk.emit(
        OrderExpired(
            account_id=account.id,
            at_ms=desk.now_ms,
            by_server=True,
            order=order,
            position=_filled_position(account, order),
        )
    )


def _after_fill(desk: Desk, account: Account, working: Working, *, by_server: bool) -> None:
    """Decide what becomes of an order after an attempt to trade."""
    order = working.order
    if order.state is OrderState.FILLED:
        finish(desk, account, working, OrderState.FILLED)
    elif order.time_in_force in AT_ONCE or _lost_its_target(account, order):
        cancel_order(desk, account, working, by_server=by_server)
    else:
        rest(desk, account, working, wait=True)


def _lost_its_target(account: Account, order: Order) -> bool:
    """A hedged order that has traded into a position which is closed now must not reopen it."""
    return (
        account.settings.type is AccountType.HEDGED
        and order.filled_units > 0
        and order.position_id not in account.holdings
    )


def _refuse(desk: Desk, account: Account, working: Working, refusal: Refusal, *, by_server: bool) -> None:
    """The account cannot carry an accepted order: rejected, or its rest cancelled when part of it is filled."""
    if working.order.filled_units > 0:
        cancel_order(desk, account, working, by_server=by_server)
        return
    order = finish(desk, account, working, OrderState.REJECTED)
    desk.emit(
        OrderRejected(
            account_id=account.id,
            at_ms=desk.now_ms,
            by_server=by_server,
            order=order,
            code=refusal.code,
            message=refusal.message,
        )
    )


def _wake_order(desk: Desk, account: Account, working: Working) -> None:
    """A resting order's price was reached."""
    first = not working.order.triggered and working.order.stop_price is not None
    if first:
        working.order = replace(working.order, triggered=True, updated_at_ms=desk.now_ms)
    filled_before = working.order.filled_units
    execute(desk, account, working, by_server=True)
    if first and working.order.id in account.working and working.order.filled_units == filled_before:
        desk.emit(OrderTriggered(account_id=account.id, at_ms=desk.now_ms, by_server=True, order=working.order))


def _pull_order(desk: Desk, account: Account, working: Working) -> None:
    """Move a trailing stop order after a favourable price."""
    order = working.order
    book = account.market.book(order.instrument_id)
    price = book.market_price(order.side)
    if price is None or order.triggered:
        return
    moved = trailed(order, price, book.listing.instrument.price_digits)
    if moved.stop_price != order.stop_price:
        working.order = replace(moved, updated_at_ms=desk.now_ms)
        desk.emit(OrderReplaced(account_id=account.id, at_ms=desk.now_ms, by_server=True, order=working.order))
    else:
        working.order = moved
    rest(desk, account, working)


def _hit(desk: Desk, account: Account, holding: Holding, kind: Kind) -> None:
    """A stop loss or take profit was reached: close at the market, the take profit at its price or better."""
    order = holding.protection
    if order is None:
        return
    book = account.market.book(order.instrument_id)
    if not may_execute(account, book, order):
        arm_protection(desk, account, holding, wait=True)
        return
    plan = _plan(desk, account, book, order, order.limit_price if kind is Kind.TAKE_PROFIT else None)
    if kind is Kind.STOP_LOSS:
        order = replace(order, triggered=True, updated_at_ms=desk.now_ms)
    disarm_protection(account, holding)
    holding.protection = None
    order = _trade(desk, account, book, order, plan, by_server=True)
    if order.state is OrderState.FILLED:
        account.finished.append(order)
        return
    holding.protection = order
    arm_protection(desk, account, holding, wait=True)


def _plan(desk: Desk, account: Account, book: Book, order: Order, worst: Decimal | None) -> list[Fill]:
    return plan_fills(
        order,
        most_units(account, order),
        worst,
        book.offers(order.side),
        book.listing,
        partial_chance=account.market.settings.partial_fill_chance,
        rng=desk.rng,
    )


def _trade(desk: Desk, account: Account, book: Book, order: Order, plan: list[Fill], *, by_server: bool) -> Order:
    """Book planned fills and let protection and tied orders follow; the order after them."""
    first = order.filled_units == 0
    for fill in plan:
        target = target_of(account, order)
        book.consume(order.side, fill.price, fill.units)
        order = book_fill(desk, account, order, fill, by_server=by_server)
        if target is not None and target.position.status is PositionStatus.CLOSED:
            drop_protection(desk, account, target, by_server=by_server)
            _cancel_tied(desk, account, target.position.id, order.id, by_server=by_server)
    holding = target_of(account, order)
    if holding is not None and plan:
        if order.role is OrderRole.TRADE and first and holding.position.side is order.side:
            protect_from_order(desk, account, holding, order, by_server=by_server)
        resize_protection(desk, account, holding, by_server=by_server)
    return order


def _cancel_tied(desk: Desk, account: Account, position_id: int, except_id: int, *, by_server: bool) -> None:
    """Orders that name a closed position end with it (hedged accounts; netted orders are about the instrument)."""
    if account.settings.type is AccountType.NETTED:
        return
    for working in list(account.working.values()):
        if working.order.position_id == position_id and working.order.id != except_id:
            cancel_order(desk, account, working, by_server=by_server)


def _filled_position(account: Account, order: Order) -> Position | None:
    """The open position a partly filled order belongs to."""
    if order.filled_units == 0 or order.position_id is None:
        return None
    holding = account.holdings.get(order.position_id)
    return None if holding is None else holding.position
