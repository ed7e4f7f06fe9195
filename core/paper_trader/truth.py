"""What the broker believes: valuation of positions and account totals, independent of the mirror's own.

P&L of a position = gross + swap + commission with gross at the closing side's price, walked to the deposit currency at
bid on every hop and rounded half-even once (Open API reference §4.2). Missing prices give None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from core.money import round_money
from core.orders import Side
from core.paper_trader.conversion import EXACT
from core.paper_trader.margin import total_margin
from core.paper_trader.state import Account, Holding
from core.paper_trader.types import ZERO, AccountTruth, OrderRole, Position, PositionTruth

LEVEL_DIGITS = 2
HUNDRED = Decimal(100)


@dataclass(frozen=True, slots=True)
class Totals:
    """Account totals; `equity` None when any position cannot be valued."""

    equity: Decimal | None
    used_margin: Decimal


def gross_in_quote(position: Position, price: Decimal, units: Decimal) -> Decimal:
    """Profit of `units` of the position at a closing price, in the quote asset, exact."""
    entry = position.entry_price or ZERO  # an open position always has one
    distance = price - entry if position.side is Side.BUY else entry - price
    return EXACT.multiply(distance, units)


def exact_gross(account: Account, holding: Holding) -> Decimal | None:
    """Unrounded gross P&L in the deposit currency at the present closing price."""
    position = holding.position
    book = account.market.book(position.instrument_id)
    price = book.closing_price(position.side)
    if price is None:
        return None
    gross = gross_in_quote(position, price, position.units)
    return account.market.converter.convert(gross, book.listing.instrument.quote_asset, account.settings.currency)


def net_pnl(account: Account, holding: Holding) -> Decimal | None:
    """Net P&L, rounded; None while a price is missing."""
    gross = exact_gross(account, holding)
    if gross is None:
        return None
    return account.round(EXACT.add(gross, holding.position.swap + holding.position.commission))


def totals(account: Account) -> Totals:
    """Equity and used margin now."""
    equity: Decimal | None = account.balance
    for holding in account.holdings.values():
        net = net_pnl(account, holding)
        equity = None if equity is None or net is None else equity + net
    return Totals(equity, total_margin(account))


def margin_level(equity: Decimal, used_margin: Decimal) -> Decimal | None:
    """Percent; None when no margin is used."""
    if not used_margin:
        return None
    return round_money(EXACT.divide(equity * HUNDRED, used_margin), LEVEL_DIGITS)


def account_truth(account: Account) -> AccountTruth:
    """The whole account as plain values."""
    positions = tuple(_position_truth(account, holding) for holding in account.holdings.values())
    pnl: Decimal | None = account.round(ZERO)
    for each in positions:
        pnl = None if pnl is None or each.unrealized_pnl is None else pnl + each.unrealized_pnl
    equity = None if pnl is None else account.balance + pnl
    used = total_margin(account)
    return AccountTruth(
        account_id=account.id,
        currency=account.settings.currency,
        money_digits=account.settings.money_digits,
        leverage=account.settings.leverage,
        balance=account.balance,
        balance_version=account.balance_version,
        bonus=account.bonus,
        equity=equity,
        unrealized_pnl=pnl,
        used_margin=used,
        free_margin=None if equity is None else equity - used,
        margin_level=None if equity is None else margin_level(equity, used),
        positions=positions,
        orders=tuple(each.order for each in account.working.values() if each.order.role is OrderRole.TRADE),
    )


def _position_truth(account: Account, holding: Holding) -> PositionTruth:
    position = holding.position
    gross = exact_gross(account, holding)
    return PositionTruth(
        position=position,
        current_price=account.market.book(position.instrument_id).closing_price(position.side),
        gross_pnl=None if gross is None else account.round(gross),
        unrealized_pnl=net_pnl(account, holding),
    )
