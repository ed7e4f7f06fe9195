"""Prices, charges and results of single deals in whole numbers, rounded as the engine does: `fast_money` one by one.

Invariant: the same numbers as `fast_money.Costs` gives for columns, and as the engine books.
"""

from __future__ import annotations

from decimal import Decimal

from core.backtester.fast_money import decimals
from core.backtester.settings import BacktestSettings
from core.money import round_money
from core.paper_trader import CommissionKind, Listing
from core.paper_trader.conversion import EXACT


class Fills:
    """Prices of fills from quotes in points. `places`: decimals of the scaled prices it gives."""

    def __init__(self, listing: Listing, settings: BacktestSettings) -> None:
        terms = settings.market.slippage
        shift, part = decimals(terms.points), decimals(terms.fraction)
        digits = listing.instrument.price_digits
        self.places = digits + (shift + part if terms.exact else 0)
        self.least: int = 10 ** (self.places - digits)  # one point
        self._paid = bool(terms.points or terms.fraction)
        self._on_close = terms.on_close
        self._divisor: int = 1 if terms.exact else 10 ** (shift + part)
        self._scale: int = 10**shift
        self._points = int(terms.points.scaleb(shift))
        self._whole: int = 10**part
        self._fraction = int(terms.fraction.scaleb(part))

    def price(self, points: int, *, buys: bool, closing: bool) -> int:
        """What a deal at the market is filled at; below `least` where slippage eats the price."""
        if not self._paid or (closing and not self._on_close):
            return points * self.least
        if buys:
            return -(-(points * self._scale + self._points) * (self._whole + self._fraction) // self._divisor)
        return (points * self._scale - self._points) * (self._whole - self._fraction) // self._divisor


class Size:
    """Money of deals of one number of units, in minor units of the deposit currency, each rounded half-even once."""

    def __init__(self, units: Decimal, listing: Listing, settings: BacktestSettings, places: int) -> None:
        digits, terms = settings.account.money_digits, listing.commission
        self.units = units
        self.factor, self.divisor = _ratio(units, places, digits)
        rate = EXACT.multiply(units, terms.rate)
        by_value = terms.kind is CommissionKind.PERCENT_OF_VALUE and bool(rate)
        self._rate, self._rate_divisor = _ratio(rate, places + 2, digits) if by_value else (0, 1)
        flat = Decimal(0)
        if terms.kind is CommissionKind.PER_LOT_QUOTE:
            flat = EXACT.multiply(units / (listing.instrument.lot_units or Decimal(1)), terms.rate)
        least = Decimal(0) if terms.kind is CommissionKind.NONE else max(flat, terms.minimum)
        self._least = int(round_money(least, digits).scaleb(digits))

    def charge(self, price: int) -> int:
        """Commission of a deal at a scaled price, ≥ 0."""
        return max(half_even(price * self._rate, self._rate_divisor), self._least)

    def result(self, move: int, charges: int = 0) -> int:
        """Gain of a scaled price difference, less charges, rounded once."""
        return half_even(move * self.factor - charges * self.divisor, self.divisor)


def half_even(value: int, divisor: int) -> int:
    """The whole quotient, ties to even."""
    quotient, rest = divmod(value, divisor)
    double = 2 * rest
    return quotient + (double > divisor or (double == divisor and quotient % 2 == 1))


def _ratio(amount: Decimal, places: int, digits: int) -> tuple[int, int]:
    """Factor and divisor that turn a price scaled by `places`, times the amount, into minor units."""
    own = decimals(amount)
    factor = int(amount.scaleb(own)) * 10 ** max(0, digits - places - own)
    return factor, 10 ** max(0, places + own - digits)
