"""Commission of one deal, per side (Open API reference §4.1). A pure formula: no state, no rounding surprises.

The result is ≤ 0 (a charge) in the deposit currency, rounded half-even to its digits once.
"""

from __future__ import annotations

from decimal import Decimal

from core.money import round_money
from core.paper_trader.conversion import EXACT, Converter
from core.paper_trader.settings import Commission, CommissionKind, Listing
from core.paper_trader.types import ZERO

USD = "USD"
MILLION = Decimal(1_000_000)
HUNDRED = Decimal(100)


def deal_commission(
    listing: Listing, units: Decimal, price: Decimal, converter: Converter, currency: str, money_digits: int
) -> Decimal | None:
    """Commission for a deal of `units` at `price`; None while a conversion rate it needs is missing."""
    terms = listing.commission
    if terms.kind is CommissionKind.NONE or (terms.rate == 0 and terms.minimum == 0):
        return ZERO
    charge = _by_rate(listing, terms, units, price, converter, currency)
    least = converter.convert(terms.minimum, terms.minimum_asset or listing.instrument.quote_asset, currency)
    if charge is None or least is None:
        return None
    return -round_money(max(charge, least), money_digits)


def _by_rate(
    listing: Listing, terms: Commission, units: Decimal, price: Decimal, converter: Converter, currency: str
) -> Decimal | None:
    instrument = listing.instrument
    lots = units / (instrument.lot_units or Decimal(1))
    match terms.kind:
        case CommissionKind.PER_MILLION_USD:
            volume = converter.convert(units, instrument.base_asset, USD)
            if volume is None:
                return None
            return converter.convert(EXACT.multiply(volume, terms.rate) / MILLION, USD, currency)
        case CommissionKind.PER_LOT_USD:
            return converter.convert(EXACT.multiply(lots, terms.rate), USD, currency)
        case CommissionKind.PERCENT_OF_VALUE:
            value = EXACT.multiply(EXACT.multiply(units, price), terms.rate) / HUNDRED
            return converter.convert(value, instrument.quote_asset, currency)
        case CommissionKind.PER_LOT_QUOTE:
            return converter.convert(EXACT.multiply(lots, terms.rate), instrument.quote_asset, currency)
        case CommissionKind.NONE:
            return ZERO
