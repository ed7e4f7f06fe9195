"""The equity at every moment, valued all at once and rounded exactly as the engine rounds.

Net profit of a position = sign × (closing price − entry) × units, walked to the deposit currency at bid, plus swap and
commission, rounded half-even to the deposit digits once. Whole numbers carry it where they can; elsewhere doubles do,
and whatever lies close to a rounding edge is done again in Decimals.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from core.backtester.data.columns import Floats, Int64s
from core.backtester.equity import Equity, equity_of
from core.backtester.ledger import Held
from core.backtester.settings import BacktestSettings
from core.backtester.tracks import Timeline, Track
from core.money import round_money
from core.paper_trader.conversion import EXACT

LARGEST = 2**62


class Valuer:
    """Prices at the moments, and the way from each quote asset to the deposit currency."""

    def __init__(self, timeline: Timeline, settings: BacktestSettings, chains: dict[str, tuple[str, ...]]) -> None:
        self._settings = settings
        self._chains = chains
        self._tracks = {each.instrument_id: each for each in timeline.tracks}
        self._money_digits = settings.account.money_digits

    def add_to(self, equity: Int64s, held: Sequence[Held]) -> None:
        """Add the net profit of holdings, in minor units of the deposit, at each of their moments: row 0 is before."""
        for name in {each.instrument_id: None for each in held}:
            own = [each for each in held if each.instrument_id == name]
            if self._chains[name] or not self._all_whole(equity, own, self._tracks[name]):
                for each in own:
                    equity[each.start + 1 : each.stop + 1] += self._minor_units(each)

    def _minor_units(self, held: Held) -> Int64s:
        track = self._tracks[held.instrument_id]
        prices = _prices(track, held)
        if not self._chains[held.instrument_id]:
            exact = _whole(held, prices, track.digits, self._money_digits)
            if exact is not None:
                return exact
        return self._converted(held, track, prices)

    def _all_whole(self, equity: Int64s, held: list[Held], track: Track) -> bool:
        """All of an instrument's in whole numbers at once; False, and nothing done, where they would not fit."""
        places = max(track.digits, 0, *(-_exponent(each.entry_price) for each in held))
        unit_places = max(0, self._money_digits - places, *(-_exponent(each.units) for each in held))
        entries = [int(each.entry_price.scaleb(places)) for each in held]
        units = [int(each.units.scaleb(unit_places)) for each in held]
        charges = [int(each.charges.scaleb(places + unit_places)) for each in held]
        factor = 10 ** (places - track.digits)
        top = max(int(track.ask.max()) * factor, *entries)
        if 2 * (top * max(units) + max(map(abs, charges))) >= LARGEST:
            return False
        signs = np.array([each.sign for each in held], dtype=np.int64)
        starts, stops = (np.array([getattr(each, end) for each in held], dtype=np.int64) for end in ("start", "stop"))
        at, owner = spans(starts, stops)
        steps = track.steps_at[at] - 1
        prices = np.where(signs[owner] > 0, track.bid[steps], track.ask[steps]) * factor
        gains = (prices - np.array(entries)[owner]) * (signs * np.array(units))[owner] + np.array(charges)[owner]
        np.add.at(equity, at + 1, round_half_even(gains, 10 ** (places + unit_places - self._money_digits)))
        return True

    def _converted(self, held: Held, track: Track, prices: Int64s) -> Int64s:
        steps = self._steps(held)
        rate: Floats = np.ones(len(prices))
        for inverse, bids, digits in steps:
            price = bids * 10.0**-digits
            rate = rate / price if inverse else rate * price
        scale = 10.0**self._money_digits
        size = float(held.units) * rate * scale
        price = prices * 10.0**-track.digits
        value = held.sign * (price - float(held.entry_price)) * size + float(held.charges) * scale
        rounded = np.rint(value)
        unsure = np.abs(np.abs(value - np.floor(value)) - 0.5) < 1e-9 + 1e-14 * (price * size + np.abs(value))
        for row in np.flatnonzero(unsure):
            hops = [(inverse, Decimal(int(bids[row])).scaleb(-digits)) for inverse, bids, digits in steps]
            at = Decimal(int(prices[row])).scaleb(-track.digits)
            rounded[row] = int(self._exactly(held, at, hops).scaleb(self._money_digits))
        return rounded.astype(np.int64)

    def _exactly(self, held: Held, price: Decimal, hops: list[tuple[bool, Decimal]]) -> Decimal:
        gross = EXACT.multiply((price - held.entry_price) * held.sign, held.units)
        numerator = denominator = Decimal(1)
        for inverse, bid in hops:
            if inverse:
                denominator = EXACT.multiply(denominator, bid)
            else:
                numerator = EXACT.multiply(numerator, bid)
        if hops:
            gross = EXACT.divide(EXACT.multiply(gross, numerator), denominator)
        return round_money(EXACT.add(gross, held.charges), self._money_digits)

    def _steps(self, held: Held) -> list[tuple[bool, Int64s, int]]:
        """For each hop: whether it divides, the bids at the holding's moments, their digits."""
        asset = self._settings.listing(held.instrument_id).instrument.quote_asset
        steps = []
        for name in self._chains[held.instrument_id]:
            instrument = self._settings.listing(name).instrument
            inverse = instrument.base_asset != asset
            asset = instrument.base_asset if inverse else instrument.quote_asset
            track = self._tracks[name]
            steps.append((inverse, _at(track, track.bid, held), track.digits))
        return steps


def equity_curve(
    timeline: Timeline, valuer: Valuer, held: Sequence[Held], balances: Sequence[tuple[int, Decimal]], digits: int
) -> Equity:
    """One row at the start and one per moment; `balances`: from which moment on which balance, the first from 0."""
    count = len(timeline.moments)
    balance = np.zeros(count + 1, dtype=np.int64)
    starts = [0, *(moment + 1 for moment, _ in balances[1:]), count + 1]
    for (_, amount), start, stop in zip(balances, starts[:-1], starts[1:], strict=True):
        balance[start:stop] = int(amount.scaleb(digits))
    equity = balance.copy()
    exposed = np.zeros(count + 1, dtype=np.bool_)
    valuer.add_to(equity, held)
    for each in held:
        exposed[each.start + 1 : each.stop + 1] = True
    stamps = np.concatenate(([timeline.start_ms], timeline.moments))
    return equity_of(stamps, money(equity, digits), money(balance, digits), exposed)


def money(minor: Int64s, digits: int) -> Floats:
    """Minor units as the nearest doubles."""
    return np.asarray(minor / 10.0**digits)


def spans(starts: Int64s, stops: Int64s) -> tuple[Int64s, Int64s]:
    """Every number of every [start, stop), and which span it belongs to."""
    lengths = stops - starts
    owner = np.repeat(np.arange(len(starts)), lengths)
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - before[owner] + starts[owner], owner


def round_half_even(values: Int64s, divisor: int) -> Int64s:
    """Whole quotients, ties to even."""
    quotient = values // divisor
    double = 2 * (values - quotient * divisor)
    up = (double > divisor) | ((double == divisor) & (quotient % 2 == 1))
    return np.asarray(quotient + up)


def _whole(held: Held, prices: Int64s, digits: int, money_digits: int) -> Int64s | None:
    """In whole numbers alone; None where they would not fit."""
    places = max(digits, -_exponent(held.entry_price), 0)
    unit_places = max(-_exponent(held.units), 0, money_digits - places)
    units = int(held.units.scaleb(unit_places))
    entry = int(held.entry_price.scaleb(places))
    factor = 10 ** (places - digits)
    charges = int(held.charges.scaleb(places + unit_places))
    top = int(prices.max()) * factor
    if 2 * (max(top, entry) * units + abs(charges)) >= LARGEST:
        return None
    value = (prices * factor - entry) * (held.sign * units) + charges
    return round_half_even(value, 10 ** (places + unit_places - money_digits))


def _exponent(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _prices(track: Track, held: Held) -> Int64s:
    return _at(track, track.bid if held.sign > 0 else track.ask, held)


def _at(track: Track, column: npt.NDArray[np.int64], held: Held) -> Int64s:
    """The column at the holding's moments."""
    return column[track.steps_at[held.start : held.stop] - 1]
