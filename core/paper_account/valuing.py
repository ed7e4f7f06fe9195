"""Valuations as plain values, and conversion between the currencies of accounts.

The engine values positions; here its truth only gets the names of this room. A conversion walks a chain of instruments
at bid, as the engine's own does: exact products, one division at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal

from core.paper_account.values import PositionValue, Price, Valuation
from core.paper_trader import AccountTruth, Listing, PositionTruth

EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
ONE = Decimal(1)


def valuation_of(truth: AccountTruth, at_ms: int) -> Valuation:
    """What an engine believes of an account, as a valuation of that time."""
    return Valuation(
        account_id=truth.account_id,
        at_ms=at_ms,
        currency=truth.currency,
        money_digits=truth.money_digits,
        balance=truth.balance,
        bonus=truth.bonus,
        equity=truth.equity,
        unrealized=truth.unrealized_pnl,
        used_margin=truth.used_margin,
        free_margin=truth.free_margin,
        margin_level=truth.margin_level,
        positions=tuple(_position(each) for each in truth.positions),
        unpriced=tuple(each.position.id for each in truth.positions if each.unrealized_pnl is None),
    )


def rate_of(
    asset: str, chain: Sequence[str], listings: Mapping[str, Listing], price: Callable[[str], Price | None]
) -> Decimal | None:
    """What one unit of an asset is worth at the end of a chain of instruments; None while a price is missing."""
    numerator = denominator = ONE
    for instrument_id in chain:
        instrument, known = listings[instrument_id].instrument, price(instrument_id)
        if known is None:
            return None
        if instrument.base_asset == asset:
            numerator, asset = EXACT.multiply(numerator, known.bid), instrument.quote_asset
        else:
            denominator, asset = EXACT.multiply(denominator, known.bid), instrument.base_asset
    return EXACT.divide(numerator, denominator)


def _position(truth: PositionTruth) -> PositionValue:
    position = truth.position
    return PositionValue(
        position_id=position.id,
        instrument_id=position.instrument_id,
        side=position.side,
        units=position.units,
        entry_price=position.entry_price or Decimal(0),  # an open position always has one
        current_price=truth.current_price,
        gross=truth.gross_pnl,
        swap=position.swap,
        commission=position.commission,
        net=truth.unrealized_pnl,
        used_margin=position.used_margin,
    )
