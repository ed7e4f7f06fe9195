"""Positions and accounts as the engine would tell of them, put together from known numbers.

For runs that need no engine, under the terms of `terms`: results in the deposit currency, margins from the own bid.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from core.backtester.settings import ACCOUNT, BacktestSettings
from core.money import round_money
from core.orders import Side
from core.paper_trader import AccountTruth, Listing, Position, PositionStatus, PositionTruth
from core.paper_trader.conversion import EXACT
from core.paper_trader.truth import margin_level


def open_position(
    settings: BacktestSettings,
    listing: Listing,
    *,
    position_id: int,
    side: Side,
    units: Decimal,
    opened_ms: int,
    entry: Decimal,
    commission: Decimal,
    bid: Decimal,
    labels: tuple[str | None, str | None],
) -> Position:
    """A position since its one opening deal. `bid`: then; `commission` ≤ 0; `labels`: label and comment."""
    account = settings.account
    value = EXACT.multiply(units, bid)
    leverage = min(account.leverage, listing.max_leverage or account.leverage)
    fraction = listing.margin_fraction
    margin = EXACT.divide(value, leverage) if fraction is None else EXACT.multiply(value, fraction)
    return Position(
        id=position_id,
        account_id=ACCOUNT,
        instrument_id=listing.instrument.id,
        side=side,
        units=units,
        status=PositionStatus.OPEN,
        opened_at_ms=opened_ms,
        updated_at_ms=opened_ms,
        entry_price=entry,
        swap=round_money(Decimal(0), account.money_digits),
        commission=commission,
        used_margin=round_money(margin, account.money_digits),
        margin_rate=bid,
        label=labels[0],
        comment=labels[1],
    )


def position_truth(settings: BacktestSettings, position: Position, price: Decimal) -> PositionTruth:
    """Its value at a closing price."""
    digits = settings.account.money_digits
    moved = price - (position.entry_price or price)
    gross = EXACT.multiply(moved if position.side is Side.BUY else -moved, position.units)
    return PositionTruth(
        position=position,
        current_price=price,
        gross_pnl=round_money(gross, digits),
        unrealized_pnl=round_money(EXACT.add(gross, position.swap + position.commission), digits),
    )


def account_truth(
    settings: BacktestSettings, balance: Decimal, changes: int, positions: Sequence[PositionTruth]
) -> AccountTruth:
    """The account whose balance changed that many times since the deposit; without working orders."""
    account = settings.account
    zero = round_money(Decimal(0), account.money_digits)
    profit = sum((each.unrealized_pnl or zero for each in positions), zero)
    used = sum((each.position.used_margin for each in positions), zero)
    return AccountTruth(
        account_id=ACCOUNT,
        currency=account.currency,
        money_digits=account.money_digits,
        leverage=account.leverage,
        balance=balance,
        balance_version=1 + changes,
        bonus=zero,
        equity=balance + profit,
        unrealized_pnl=profit,
        used_margin=used,
        free_margin=balance + profit - used,
        margin_level=margin_level(balance + profit, used),
        positions=tuple(positions),
        orders=(),
    )
