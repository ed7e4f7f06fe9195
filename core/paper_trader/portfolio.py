"""Booking a fill: deals, positions, and what a closing deal puts into the balance.

Opening commission waits in the position and settles, pro rata, when units close (Open API reference §4.2).
Invariants: balance changes only by realised results and cash; a netted account holds at most one position per
instrument; what a closing takes of units, swap, commission and margin value leaves exactly the rest.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Context, Decimal

from core.paper_trader.commission import USD, deal_commission
from core.paper_trader.conversion import EXACT
from core.paper_trader.events import BalanceCause, BalanceChanged, MarginChanged, OrderFilled, OrderPartiallyFilled
from core.paper_trader.margin import margin_of
from core.paper_trader.market import Book
from core.paper_trader.matching import Fill, slipped
from core.paper_trader.settings import AccountType
from core.paper_trader.state import Account, Desk, Holding
from core.paper_trader.truth import gross_in_quote
from core.paper_trader.types import (
    ZERO,
    CloseDetail,
    Deal,
    Order,
    OrderRole,
    OrderState,
    Position,
    PositionStatus,
)

# A double carries 15 significant decimal digits exactly; average prices are kept to that, so the wire loses nothing.
AVERAGE = Context(prec=15, rounding=ROUND_HALF_EVEN)


def target_of(account: Account, order: Order) -> Holding | None:
    """The open position an order would change: the instrument's on a netted account, else the one it names."""
    if account.settings.type is AccountType.NETTED and order.role is OrderRole.TRADE:
        return account.holding_of(order.instrument_id)
    return None if order.position_id is None else account.holdings.get(order.position_id)


def closing_units(account: Account, order: Order, units: Decimal) -> Decimal:
    """How many of `units` would close rather than open."""
    target = target_of(account, order)
    if target is None or target.position.side is order.side:
        return ZERO
    return min(units, target.position.units)


def most_units(account: Account, order: Order) -> Decimal:
    """What the order may still trade: a hedged order that reduces a position ends with it, it never turns it round."""
    target = target_of(account, order)
    if target is None or target.position.side is order.side or account.settings.type is AccountType.NETTED:
        return order.remaining_units
    return min(order.remaining_units, target.position.units)


def can_price(account: Account, book: Book) -> bool:
    """Whether every conversion that booking a deal needs is known now."""
    instrument = book.listing.instrument
    converter, currency = account.market.converter, account.settings.currency
    sample = book.bid or book.ask
    return (
        sample is not None
        and converter.rate(instrument.quote_asset, currency) is not None
        and converter.rate(instrument.base_asset, currency) is not None
        and _commission(account, book, instrument.min_units or Decimal(1), sample) is not None
    )


def book_fill(desk: Desk, account: Account, order: Order, fill: Fill, *, by_server: bool) -> Order:
    """Book one fill as one deal (two when it closes a netted position and opens the other side); the order after it."""
    closing = closing_units(account, order, fill.units)
    target = target_of(account, order)
    digits = account.market.book(order.instrument_id).listing.instrument.price_digits
    terms = account.market.settings.slippage
    if target is not None and closing > 0:
        price = slipped(order, fill.price, terms, digits, closing=True)
        order = _close_part(desk, account, order, target, Fill(price, closing), by_server=by_server)
    opening = fill.units - closing
    if opening > 0:
        price = slipped(order, fill.price, terms, digits, closing=False)
        order = _open_part(desk, account, order, Fill(price, opening), by_server=by_server)
    desk.touch(account)
    return order


def average(old_units: Decimal, old_price: Decimal | None, units: Decimal, price: Decimal) -> Decimal:
    """Average price of both parts, to 15 significant digits."""
    if old_price is None or old_units == 0 or old_price == price:
        return price
    cost = EXACT.add(EXACT.multiply(old_units, old_price), EXACT.multiply(units, price))
    return AVERAGE.plus(EXACT.divide(cost, old_units + units)).normalize()


def set_margin(desk: Desk, account: Account, holding: Holding, book: Book, *, tell: bool) -> None:
    """Recompute a position's used margin from its margin value; `tell` emits MarginChanged when it differs."""
    used = margin_of(account, book.listing, holding.margin_value)
    if used == holding.position.used_margin:
        return
    holding.position = replace(holding.position, used_margin=used, updated_at_ms=desk.now_ms)
    if tell:
        desk.emit(
            MarginChanged(account_id=account.id, at_ms=desk.now_ms, position_id=holding.position.id, used_margin=used)
        )


def _open_part(desk: Desk, account: Account, order: Order, fill: Fill, *, by_server: bool) -> Order:
    """Open a position or add to one."""
    book = account.market.book(order.instrument_id)
    instrument = book.listing.instrument
    convert = account.market.converter.convert
    charged = _known(_commission(account, book, fill.units, fill.price))
    holding = target_of(account, order)
    is_new = holding is None
    if holding is None:
        holding = Holding(_new_position(desk, account, order))
        account.holdings[holding.position.id] = holding
        book.holders[holding.position.id] = account.id
    position = holding.position
    value = _known(convert(fill.units, instrument.base_asset, account.settings.currency))
    holding.margin_value = EXACT.add(holding.margin_value, value)
    units = position.units + fill.units
    holding.position = replace(
        position,
        units=units,
        entry_price=average(position.units, position.entry_price, fill.units, fill.price),
        commission=position.commission + charged,
        margin_rate=AVERAGE.plus(EXACT.divide(holding.margin_value, units)),
        updated_at_ms=desk.now_ms,
    )
    before = holding.position.used_margin
    set_margin(desk, account, holding, book, tell=False)
    order = _filled(desk, order, fill, holding.position.id)
    _emit_fill(desk, account, order, _deal(desk, account, order, fill, charged, None), holding.position, by_server)
    if not is_new and before != holding.position.used_margin:
        _emit_margin(desk, account, holding.position)
    return order


def _close_part(desk: Desk, account: Account, order: Order, holding: Holding, fill: Fill, *, by_server: bool) -> Order:
    """Close all or part of a holding and settle it into the balance."""
    book = account.market.book(order.instrument_id)
    quote_asset, currency = book.listing.instrument.quote_asset, account.settings.currency
    convert = account.market.converter.convert
    position = holding.position
    closes_all = fill.units == position.units
    gross = account.round(_known(convert(gross_in_quote(position, fill.price, fill.units), quote_asset, currency)))
    swap = position.swap if closes_all else _share(account, position.swap, fill.units, position.units)
    opening = position.commission if closes_all else _share(account, position.commission, fill.units, position.units)
    charged = _known(_commission(account, book, fill.units, fill.price))
    delta = gross + swap + opening + charged
    account.add_to_balance(delta)
    detail = CloseDetail(
        entry_price=position.entry_price or ZERO,
        closed_units=fill.units,
        gross_profit=gross,
        swap=swap,
        commission=opening + charged,
        balance=account.balance,
        balance_version=account.balance_version,
        quote_to_deposit_rate=AVERAGE.plus(_known(convert(Decimal(1), quote_asset, currency))),
    )
    holding.position = replace(
        position,
        units=position.units - fill.units,
        swap=position.swap - swap,
        commission=position.commission - opening,
        status=PositionStatus.CLOSED if closes_all else PositionStatus.OPEN,
        closed_at_ms=desk.now_ms if closes_all else None,
        updated_at_ms=desk.now_ms,
    )
    kept = EXACT.multiply(holding.margin_value, position.units - fill.units)
    holding.margin_value = EXACT.divide(kept, position.units)
    set_margin(desk, account, holding, book, tell=False)
    order = _filled(desk, order, fill, position.id)
    _emit_fill(desk, account, order, _deal(desk, account, order, fill, charged, detail), holding.position, by_server)
    desk.emit(
        BalanceChanged(
            account_id=account.id,
            at_ms=desk.now_ms,
            by_server=by_server,
            delta=delta,
            balance=account.balance,
            balance_version=account.balance_version,
            cause=BalanceCause.DEAL,
        )
    )
    if closes_all:
        del account.holdings[position.id]
        del book.holders[position.id]
    elif holding.position.used_margin != position.used_margin:
        _emit_margin(desk, account, holding.position)
    return order


def _new_position(desk: Desk, account: Account, order: Order) -> Position:
    hedged = account.settings.type is AccountType.HEDGED
    return Position(
        id=order.position_id if hedged and order.position_id is not None else desk.new_position_id(),
        account_id=account.id,
        instrument_id=order.instrument_id,
        side=order.side,
        units=ZERO,
        status=PositionStatus.OPEN,
        opened_at_ms=desk.now_ms,
        updated_at_ms=desk.now_ms,
        label=order.label,
        comment=order.comment,
        swap=account.round(ZERO),
        commission=account.round(ZERO),
        used_margin=account.round(ZERO),
    )


def _filled(desk: Desk, order: Order, fill: Fill, position_id: int) -> Order:
    filled = order.filled_units + fill.units
    return replace(
        order,
        filled_units=filled,
        average_price=average(order.filled_units, order.average_price, fill.units, fill.price),
        position_id=position_id,
        state=OrderState.FILLED if filled == order.units else order.state,
        updated_at_ms=desk.now_ms,
    )


def _deal(desk: Desk, account: Account, order: Order, fill: Fill, charged: Decimal, close: CloseDetail | None) -> Deal:
    instrument = account.market.book(order.instrument_id).listing.instrument
    rate = account.market.converter.rate
    margin_rate, usd_rate = rate(instrument.base_asset, account.settings.currency), rate(instrument.base_asset, USD)
    deal = Deal(
        id=desk.new_deal_id(),
        order_id=order.id,
        position_id=order.position_id or 0,
        account_id=account.id,
        instrument_id=order.instrument_id,
        side=order.side,
        units=order.units,
        filled_units=fill.units,
        price=fill.price,
        commission=charged,
        created_at_ms=order.created_at_ms,
        executed_at_ms=desk.now_ms,
        completes_order=order.state is OrderState.FILLED,
        margin_rate=None if margin_rate is None else AVERAGE.plus(margin_rate),
        base_to_usd_rate=None if usd_rate is None else AVERAGE.plus(usd_rate),
        close=close,
    )
    account.deals.append(deal)
    return deal


def _emit_fill(desk: Desk, account: Account, order: Order, deal: Deal, position: Position, by_server: bool) -> None:
    kind = OrderFilled if deal.completes_order else OrderPartiallyFilled
    desk.emit(
        kind(account_id=account.id, at_ms=desk.now_ms, by_server=by_server, order=order, deal=deal, position=position)
    )


def _emit_margin(desk: Desk, account: Account, position: Position) -> None:
    desk.emit(
        MarginChanged(
            account_id=account.id, at_ms=desk.now_ms, position_id=position.id, used_margin=position.used_margin
        )
    )


def _commission(account: Account, book: Book, units: Decimal, price: Decimal) -> Decimal | None:
    settings = account.settings
    return deal_commission(
        book.listing, units, price, account.market.converter, settings.currency, settings.money_digits
    )


def _share(account: Account, amount: Decimal, units: Decimal, of_units: Decimal) -> Decimal:
    return account.round(EXACT.divide(EXACT.multiply(amount, units), of_units))


def _known(amount: Decimal | None) -> Decimal:
    """A conversion that `can_price` found possible before the deal was booked."""
    if amount is None:
        raise AssertionError("a deal was booked without its conversion rates")
    return amount
