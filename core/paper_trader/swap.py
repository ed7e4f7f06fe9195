"""Overnight swap: when it falls due and how much it is. Pure: no state.

Due times are computed in UTC from the listing's minute of the day; the weekday is that of the due moment.
"""

from __future__ import annotations

from decimal import Decimal

from core.orders import Side
from core.paper_trader.conversion import EXACT
from core.paper_trader.settings import DAY_MS, Listing, Swap, SwapKind
from core.paper_trader.types import ZERO

MINUTE_MS = 60_000
SATURDAY = 5
# 1970-01-01 was a Thursday; Monday is 0.
EPOCH_WEEKDAY = 3


def next_daily_ms(now_ms: int, minute_utc: int) -> int:
    """The first moment strictly after `now_ms` at that minute of a UTC day."""
    offset = minute_utc * MINUTE_MS
    return ((now_ms - offset) // DAY_MS + 1) * DAY_MS + offset


def swap_days(terms: Swap, due_ms: int) -> int:
    """Days charged at that due moment: 0, 1 or 3."""
    weekday = (due_ms // DAY_MS + EPOCH_WEEKDAY) % 7
    if weekday == terms.triple_weekday:
        return 3
    if weekday >= SATURDAY and not terms.at_weekends:
        return 0
    return 1


def swap_in_quote(listing: Listing, side: Side, units: Decimal, entry_price: Decimal, days: int) -> Decimal:
    """Swap of `days` days in the quote asset, unrounded; negative when the holder pays."""
    terms = listing.swap
    rate = terms.long if side is Side.BUY else terms.short
    amount = EXACT.multiply(EXACT.multiply(units, rate), Decimal(days))
    match terms.kind:
        case SwapKind.PIPS:
            return amount.scaleb(-listing.pip_digits, context=EXACT)
        case SwapKind.POINTS:
            return amount.scaleb(-listing.instrument.price_digits, context=EXACT)
        case SwapKind.PERCENT:
            return EXACT.divide(EXACT.multiply(amount, entry_price), Decimal(100 * terms.days_in_year))
        case SwapKind.NONE:
            return ZERO
