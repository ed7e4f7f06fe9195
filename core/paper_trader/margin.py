"""Used margin: of one position, of an account, and what a new order would add.

Margin is fixed by the conversion rate at opening and changes with size and leverage only, as the Open API's does
(its MarginChangedEvent; Open API reference §4.2). Rounded half-even to the deposit digits per position.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from core.orders import Side
from core.paper_trader.conversion import EXACT
from core.paper_trader.settings import Listing, MarginTotal
from core.paper_trader.state import Account
from core.paper_trader.types import ZERO

SideMargins = dict[str, tuple[Decimal, Decimal]]


def margin_of(account: Account, listing: Listing, value: Decimal) -> Decimal:
    """Margin for a deposit-currency `value`, by the listing's own fraction or the lower of both leverages."""
    if listing.margin_fraction is not None:
        return account.round(EXACT.multiply(value, listing.margin_fraction))
    leverage = account.settings.leverage
    if listing.max_leverage is not None:
        leverage = min(leverage, listing.max_leverage)
    return account.round(EXACT.divide(value, leverage))


def margin_for_units(account: Account, listing: Listing, units: Decimal) -> Decimal | None:
    """Margin that many units would need now; None while a conversion rate is missing."""
    value = account.market.converter.convert(units, listing.instrument.base_asset, account.settings.currency)
    return None if value is None else margin_of(account, listing, value)


def total_margin(account: Account) -> Decimal:
    """Used margin of the account."""
    return _total(account, _side_margins(account))


def margin_after(account: Account, instrument_id: str, freed: Decimal, side: Side, added: Decimal) -> Decimal:
    """Total after `freed` leaves the opposite side of an instrument and `added` joins `side`."""
    margins = _side_margins(account)
    long, short = margins.get(instrument_id, (ZERO, ZERO))
    if side is Side.BUY:
        margins[instrument_id] = (long + added, short - freed)
    else:
        margins[instrument_id] = (long - freed, short + added)
    return _total(account, margins)


def _side_margins(account: Account) -> SideMargins:
    margins: SideMargins = {}
    for holding in account.holdings.values():
        position = holding.position
        long, short = margins.get(position.instrument_id, (ZERO, ZERO))
        if position.side is Side.BUY:
            long += position.used_margin
        else:
            short += position.used_margin
        margins[position.instrument_id] = (long, short)
    return margins


def _total(account: Account, margins: SideMargins) -> Decimal:
    return sum(_combine(account.settings.margin_total, margins.values()), account.round(ZERO))


def _combine(how: MarginTotal, sides: Iterable[tuple[Decimal, Decimal]]) -> Iterable[Decimal]:
    match how:
        case MarginTotal.SUM:
            return (long + short for long, short in sides)
        case MarginTotal.MAX:
            return (max(long, short) for long, short in sides)
        case MarginTotal.NET:
            return (abs(long - short) for long, short in sides)
