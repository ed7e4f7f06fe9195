"""The money of signal trades in whole numbers: fills, commission, results, equity, as the engine would book them.

Prices are scaled integers, money minor units; every rounding is half-even and happens where the engine's happens.
Whatever would not fit, or could end in a refusal or a stop-out, raises `NotFast`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from core.backtester.curve import round_half_even
from core.backtester.data.bars import Bars
from core.backtester.data.columns import Floats, Int64s
from core.backtester.settings import BacktestSettings
from core.backtester.signals import Signal
from core.backtester.tracks import Timeline, Track
from core.errors import BridgeError
from core.money import round_money
from core.orders import Side
from core.paper_trader import CommissionKind, Listing
from core.paper_trader.conversion import EXACT

LARGEST = 2**53  # beyond it a double no longer carries every whole number
WHOLE = 2**62


class NotFast(BridgeError):
    """Only the event loop knows the answer; the message says why."""


class Costs:
    """Slippage and commission of one signal's fills. `places`: decimals of the scaled prices it works on."""

    def __init__(self, listing: Listing, settings: BacktestSettings, signal: Signal) -> None:
        terms = settings.market.slippage
        self._terms = terms
        self._listing = listing
        self._digits = listing.instrument.price_digits
        self._money_digits = settings.account.money_digits
        self._units = signal.units
        extra = decimals(terms.points) + decimals(terms.fraction)
        self.places = self._digits + (extra if terms.exact else 0)
        self._extra = extra

    def fills(self, points: Int64s, *, buys: bool, closing: bool) -> Int64s:
        """Scaled fill prices from quotes in points."""
        terms = self._terms
        paid = bool(terms.points or terms.fraction) and (terms.on_close or not closing)
        if not paid:
            return np.asarray(points * 10 ** (self.places - self._digits))
        sign = 1 if buys else -1
        shift, part = decimals(terms.points), decimals(terms.fraction)
        factor = 10**part + sign * int(terms.fraction.scaleb(part))
        if len(points) and (int(points.max()) + int(terms.points) + 1) * 10**self._extra * 2 >= WHOLE:
            raise NotFast("prices too fine for whole numbers")
        moved = (points * 10**shift + sign * int(terms.points.scaleb(shift))) * factor
        if not terms.exact:
            divisor = 10**self._extra
            moved = -(-moved // divisor) if buys else moved // divisor
        if len(moved) and int(moved.min()) < 10 ** (self.places - self._digits):
            raise NotFast("slippage eats the price")
        return np.asarray(moved)

    def commission(self, prices: Int64s) -> Int64s:
        """Charges ≥ 0 in minor units for deals of the signal's units at scaled prices."""
        terms, instrument = self._listing.commission, self._listing.instrument
        least = round_money(terms.minimum, self._money_digits)
        if terms.kind is CommissionKind.PERCENT_OF_VALUE and terms.rate:
            rate = EXACT.multiply(self._units, terms.rate)
            places = decimals(rate) + self.places + 2
            lift = 10 ** max(0, self._money_digits - places)
            charge = exact_product(prices, int(rate.scaleb(decimals(rate))) * lift)
            rounded = round_half_even(charge, 10 ** max(0, places - self._money_digits))
            return np.maximum(rounded, int(least.scaleb(self._money_digits)))
        flat = Decimal(0)
        if terms.kind is CommissionKind.PER_LOT_QUOTE:
            flat = EXACT.multiply(self._units / (instrument.lot_units or Decimal(1)), terms.rate)
        if terms.kind is not CommissionKind.NONE:
            flat = max(flat, terms.minimum)
        minor = int(round_money(flat, self._money_digits).scaleb(self._money_digits))
        return np.full(len(prices), minor, dtype=np.int64)

    def results(self, moves: Int64s, charges: Int64s | int) -> Int64s:
        """Minor units of `moves` (scaled price differences) × units, plus charges in minor units, rounded once."""
        unit_places = decimals(self._units)
        places = self.places + unit_places
        lift = 10 ** max(0, self._money_digits - places)
        value = exact_product(moves, int(self._units.scaleb(unit_places)) * lift)
        divisor = 10 ** max(0, places - self._money_digits)
        return round_half_even(value + np.asarray(charges) * divisor, divisor)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """All trades of one signal. Rows past the data mean still open; `enter`, `leave`: moments after the fills."""

    index: int
    signal: Signal
    track: Track
    order: int
    costs: Costs
    sign: int
    entry_ms: Int64s
    entry_bid: Int64s
    entry: Int64s
    opening: Int64s  # commission, minor units ≥ 0
    enter: Int64s
    leave: Int64s
    closed: int  # how many of them closed; the rest (one at most) is open at the end
    at_end: int  # how many of those closed because the data ended
    exit_ms: Int64s
    exit: Int64s
    closing: Int64s
    gross: Int64s

    @property
    def units(self) -> Decimal:
        return self.signal.units


def part_of(
    index: int,
    signal: Signal,
    track: Track,
    order: int,
    costs: Costs,
    timeline: Timeline,
    rows: tuple[Int64s, Int64s],
    *,
    close_at_end: bool,
) -> Part:
    """Fills, commission and results of one signal's trades."""
    if not isinstance(track.data, Bars):
        raise NotFast("ticks")
    entry_row, exit_row = rows
    buys = signal.side is Side.BUY
    stamps, moments = track.data.time_ms, timeline.moments
    closed = int((exit_row < len(stamps)).sum())
    exit_row = exit_row[:closed]
    quotes_in, quotes_out = (track.ask, track.bid) if buys else (track.bid, track.ask)
    entry = costs.fills(quotes_in[entry_row * 4], buys=buys, closing=False)
    leaving = costs.fills(quotes_out[exit_row * 4], buys=not buys, closing=True)
    sign = 1 if buys else -1
    leave = np.searchsorted(moments, stamps[exit_row], side="right")
    exit_ms = stamps[exit_row]
    at_end = len(entry_row) - closed if close_at_end else 0
    if at_end:
        last = costs.fills(quotes_out[-1:], buys=not buys, closing=True)
        leaving, exit_ms = np.append(leaving, last), np.append(exit_ms, moments[-1])
        leave, closed = np.append(leave, len(moments) - 1), closed + 1
    return Part(
        index=index,
        signal=signal,
        track=track,
        order=order,
        costs=costs,
        sign=sign,
        entry_ms=stamps[entry_row],
        entry_bid=track.bid[entry_row * 4],
        entry=entry,
        opening=costs.commission(entry),
        enter=np.searchsorted(moments, stamps[entry_row], side="right"),
        leave=np.append(leave, [len(moments)] * (len(entry_row) - closed)).astype(np.int64),
        closed=closed,
        at_end=at_end,
        exit_ms=exit_ms,
        exit=leaving,
        closing=costs.commission(leaving),
        gross=costs.results(sign * (leaving - entry[:closed]), 0),
    )


def decimals(value: Decimal) -> int:
    """How many decimals a number has."""
    exponent = value.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def exact_product(values: Int64s, factor: int) -> Int64s:
    """values × factor. Raises NotFast where that leaves the whole numbers of 64 bits."""
    top = int(np.abs(values).max()) if len(values) else 0
    if top * abs(factor) * 4 >= WHOLE:
        raise NotFast("amounts too fine for whole numbers")
    return values * factor


def as_floats(values: Int64s, places: int) -> Floats:
    """Scaled whole numbers as the nearest doubles. Raises NotFast where a double cannot carry them."""
    if len(values) and int(np.abs(values).max()) >= LARGEST:
        raise NotFast("amounts too large for doubles")
    return np.asarray(values / 10.0**places)
