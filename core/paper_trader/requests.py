"""What clients ask for: place, cancel, close, protect (`amendment`: amend). Each is refused whole or carried out.

Checks come first and in one place (`rules`); nothing changes before they all pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from decimal import Decimal

from core.orders import OrderType, Side, TimeInForce
from core.paper_trader.events import Operation, OrderAccepted, RequestRejected
from core.paper_trader.execution import affordable, cancel_order, execute
from core.paper_trader.market import Book
from core.paper_trader.portfolio import can_price, closing_units, target_of
from core.paper_trader.protection import set_protection
from core.paper_trader.resting import is_immediate, rest, trailed
from core.paper_trader.rules import (
    AT_ONCE,
    MARKET_TYPES,
    Refusal,
    check_account,
    check_close_units,
    check_expiry,
    check_now,
    check_opening,
    check_prices,
    check_protection,
    check_request_protection,
    check_tradable,
    check_units,
    may_wait_for_open,
)
from core.paper_trader.settings import AccountType
from core.paper_trader.state import Account, Desk, Working
from core.paper_trader.stop_out import close_order
from core.paper_trader.swap import next_daily_ms
from core.paper_trader.types import (
    ZERO,
    Code,
    Order,
    OrderRequest,
    OrderRole,
    Position,
    PositionStatus,
)

Check = Callable[[], Refusal | None]
REQUEST_FIELDS = tuple(each.name for each in fields(OrderRequest))


def place(desk: Desk, account: Account, request: OrderRequest) -> None:
    """Accept and start an order, or refuse it."""
    draft = draft_order(request)
    book = account.market.books.get(request.instrument_id)
    refusal: Refusal | None
    if book is None:
        refusal = Refusal(Code.SYMBOL_NOT_FOUND, f"Symbol not found with id {request.instrument_id}")
    else:
        refusal = _check_place(desk, account, book, request, draft)
    if refusal is not None or book is None:
        reject(desk, account, Operation.PLACE, refusal, None, request.position_id, request.client_order_id)
        return
    order = _new_order(desk, account, book, request, draft)
    working = Working(order)
    account.working[order.id] = working
    position = _announced_position(desk, account, order)
    desk.emit(OrderAccepted(account_id=account.id, at_ms=desk.now_ms, order=order, position=position))
    start(desk, account, working)


def cancel(desk: Desk, account: Account, order_id: int) -> None:
    """End a working order."""
    working = account.working.get(order_id)
    refusal: Refusal | None
    if working is not None:
        refusal = check_account(account)
    elif any(each.protection is not None and each.protection.id == order_id for each in account.holdings.values()):
        refusal = Refusal(Code.UNABLE_TO_CANCEL_ORDER, "Protection is removed by amending its position")
    else:
        refusal = no_order(order_id)
    if refusal is not None or working is None:
        order = None if working is None else working.order
        reject(desk, account, Operation.CANCEL, refusal, order_id, order=order)
        return
    cancel_order(desk, account, working, by_server=False)


def close(
    desk: Desk,
    account: Account,
    position_id: int,
    units: Decimal | None,
    client_order_id: str | None,
    label: str | None,
) -> None:
    """Close a position or part of it at the market."""
    holding = account.holdings.get(position_id)
    if holding is None:
        reject(desk, account, Operation.CLOSE, _no_position(position_id), None, position_id, client_order_id)
        return
    position = holding.position
    book = account.market.book(position.instrument_id)
    closing = position.units if units is None else units
    refusal = first_refusal(
        lambda: check_account(account),
        lambda: check_tradable(book),
        lambda: check_close_units(book.listing, position, closing),
        lambda: check_now(book, position.side.opposite),
        lambda: None if can_price(account, book) else _no_rates(),
    )
    if refusal is not None:
        reject(desk, account, Operation.CLOSE, refusal, None, position_id, client_order_id)
        return
    order = close_order(desk, position, closing, client_order_id=client_order_id, label=label)
    working = Working(order)
    account.working[order.id] = working
    desk.emit(OrderAccepted(account_id=account.id, at_ms=desk.now_ms, order=order, position=position))
    execute(desk, account, working, by_server=False)


def protect(
    desk: Desk,
    account: Account,
    position_id: int,
    stop_loss: Decimal | None,
    take_profit: Decimal | None,
    trailing: bool,
) -> None:
    """Replace a position's stop loss and take profit as a whole."""
    holding = account.holdings.get(position_id)
    if holding is None:
        reject(desk, account, Operation.PROTECT, _no_position(position_id), None, position_id)
        return
    position = holding.position
    book = account.market.book(position.instrument_id)
    bare = stop_loss is None and take_profit is None
    refusal = first_refusal(
        lambda: check_account(account),
        lambda: check_tradable(book),
        lambda: Refusal(Code.INVALID_REQUEST, "Nothing to amend.") if bare and holding.protection is None else None,
        lambda: (
            Refusal(Code.TRADING_BAD_STOPS, "A trailing stop needs a stop loss")
            if trailing and stop_loss is None
            else None
        ),
        lambda: check_protection(book, position.side, book.closing_price(position.side), stop_loss, take_profit),
    )
    if refusal is not None:
        reject(desk, account, Operation.PROTECT, refusal, None, position_id)
        return
    set_protection(desk, account, holding, stop_loss, take_profit, trailing=trailing, by_server=False)


def _check_place(desk: Desk, account: Account, book: Book, request: OrderRequest, draft: Order) -> Refusal | None:
    at_market = request.type in MARKET_TYPES
    may_wait = may_wait_for_open(account.market.settings, request)

    def tradable_now() -> Refusal | None:
        if (at_market or request.time_in_force in AT_ONCE) and not may_wait:
            return check_now(book, request.side)
        return None

    def payable() -> Refusal | None:
        if not at_market or check_now(book, request.side) is not None:
            return None
        if not can_price(account, book):
            return _no_rates()
        return affordable(account, book, draft, request.units)

    return first_refusal(
        lambda: check_account(account),
        lambda: check_tradable(book),
        lambda: check_units(book.listing, request.units),
        lambda: _check_target(account, request),
        lambda: _check_may_open(account, book, draft),
        lambda: check_expiry(request, desk.now_ms),
        lambda: check_prices(book, request),
        lambda: check_request_protection(book, request),
        tradable_now,
        payable,
    )


def _check_target(account: Account, request: OrderRequest) -> Refusal | None:
    """A named position must be open, of the instrument, and large enough to be reduced by that much."""
    if request.position_id is None:
        return None
    holding = account.holdings.get(request.position_id)
    if holding is None:
        return _no_position(request.position_id)
    position = holding.position
    if position.instrument_id != request.instrument_id:
        return Refusal(Code.INVALID_REQUEST, f"Position {position.id} is in another symbol")
    if position.side is request.side or account.settings.type is AccountType.NETTED:
        return None
    return check_close_units(account.market.book(position.instrument_id).listing, position, request.units)


def _check_may_open(account: Account, book: Book, draft: Order) -> Refusal | None:
    if closing_units(account, draft, draft.units) == draft.units:
        return None
    return check_opening(account, book.listing, draft.side)


def start(desk: Desk, account: Account, working: Working) -> None:
    """Try an order at once, or wait for its stop price."""
    if is_immediate(working.order):
        execute(desk, account, working, by_server=False)
    else:
        rest(desk, account, working)


def draft_order(request: OrderRequest) -> Order:
    """The order as it would be, for questions that need one; never stored."""
    values = {name: getattr(request, name) for name in REQUEST_FIELDS}
    return Order(id=0, account_id="", role=OrderRole.TRADE, created_at_ms=0, updated_at_ms=0, **values)


def _new_order(desk: Desk, account: Account, book: Book, request: OrderRequest, draft: Order) -> Order:
    opens_own = account.settings.type is AccountType.HEDGED and request.position_id is None
    expires_at_ms = request.expires_at_ms
    if request.time_in_force is TimeInForce.DAY:
        expires_at_ms = next_daily_ms(desk.now_ms, account.market.settings.day_end_minute_utc)
    order = replace(
        draft,
        id=desk.new_order_id(),
        account_id=account.id,
        limit_price=limit_of(request, book),
        position_id=desk.new_position_id() if opens_own else request.position_id,
        expires_at_ms=expires_at_ms,
        created_at_ms=desk.now_ms,
        updated_at_ms=desk.now_ms,
    )
    if request.type is OrderType.TRAILING_STOP:
        price = book.market_price(request.side) or ZERO  # check_prices wanted a quote
        order = trailed(order, price, book.listing.instrument.price_digits)
    if expires_at_ms is not None:
        desk.schedule_expiry(expires_at_ms, account.id, order.id)
    return order


def limit_of(request: OrderRequest, book: Book) -> Decimal | None:
    """A STOP_LIMIT given with slippage has its limit that many points beyond its stop."""
    if request.type is not OrderType.STOP_LIMIT or request.slippage_points is None or request.stop_price is None:
        return request.limit_price
    slippage = Decimal(request.slippage_points).scaleb(-book.listing.instrument.price_digits)
    return request.stop_price + slippage if request.side is Side.BUY else request.stop_price - slippage


def _announced_position(desk: Desk, account: Account, order: Order) -> Position | None:
    """The position an accepted order is about: the open one, or one that is only CREATED so far."""
    target = target_of(account, order)
    if target is not None:
        return target.position
    if order.position_id is None:
        return None
    return Position(
        id=order.position_id,
        account_id=account.id,
        instrument_id=order.instrument_id,
        side=order.side,
        units=ZERO,
        status=PositionStatus.CREATED,
        opened_at_ms=desk.now_ms,
        updated_at_ms=desk.now_ms,
        label=order.label,
        comment=order.comment,
    )


def first_refusal(*checks: Check) -> Refusal | None:
    """The first refusal, or None when all checks pass; later checks may rely on earlier ones."""
    for check in checks:
        refusal = check()
        if refusal is not None:
            return refusal
    return None


def no_order(order_id: int) -> Refusal:
    return Refusal(Code.ORDER_NOT_FOUND, f"Order not found with id {order_id}")


def _no_rates() -> Refusal:
    return Refusal(Code.NO_QUOTES, "Not enough quotes to convert the result")


def _no_position(position_id: int) -> Refusal:
    return Refusal(Code.POSITION_NOT_FOUND, f"Position not found with id {position_id}")


def reject(
    desk: Desk,
    account: Account,
    operation: Operation,
    refusal: Refusal | None,
    order_id: int | None = None,
    position_id: int | None = None,
    client_order_id: str | None = None,
    order: Order | None = None,
) -> None:
    """Say that a request was refused; without a refusal there is nothing to say."""
    if refusal is None:
        return
    desk.emit(
        RequestRejected(
            account_id=account.id,
            at_ms=desk.now_ms,
            operation=operation,
            code=refusal.code,
            message=refusal.message,
            order_id=order_id,
            position_id=position_id,
            client_order_id=client_order_id,
            order=order,
        )
    )
