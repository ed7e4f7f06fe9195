"""What the positions of an account are worth, in whole numbers: `core.valuation` made quick for the usual account.

All that does not move with prices is worked out once per content. It answers with what `value_account` answers, to the
last digit, or not at all (None: ask `value_account`). Why they agree: every amount is a whole number of 10^-scale below
LARGE and every rate below LARGEST_RATE, so Decimals of 28 digits hold each finite result exactly, and what they round
is too near the true quotient (a 10^-27th of it) to cross the middle between two minor units, from which a quotient over
such a divisor keeps a greater distance. Only chains of at most one hop: after two, the middle itself could be missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from core.account import AccountMirror, EquityRule, Quote
from core.instruments import Chain, Instrument
from core.money import MAX_DIGITS
from core.orders import Side
from core.positions import Position
from core.valuation import units_and_cost, used_margin

LARGE = 10**15
LARGEST_RATE = 10**10
_MOST_DIGITS = 10  # of a quote: 10^digits is no greater than the largest rate
_MOST_SCALE = 20


@dataclass(slots=True)
class Stake:
    """One position: gross = raw price x slope - cost, in the quote currency; all in 10^-scale, signed.

    `unit`: one minor unit of the deposit currency. `hop`: the instrument that converts, None where none is needed.
    """

    instrument_id: str
    buy: bool
    slope: int
    cost: int
    fees: int
    unit: int
    hop: str | None
    inverse: bool


@dataclass(slots=True)
class Worth:
    """Raw closing prices and net P&L by position, then totals: in minor units, the margin level in 1/100 percent."""

    prices: list[int]
    profits: list[int]
    profit: int
    equity: int
    free: int | None
    level: int | None


@dataclass(slots=True)
class Stakes:
    """An account as far as it does not move with prices; money in minor units."""

    stakes: list[Stake]
    balance: int
    used: int | None
    price_unit: int

    def worth(self, quotes: Mapping[str, Quote]) -> Worth | None:
        """What all of it is worth now; None when a price is missing or a number too large."""
        prices: list[int] = []
        profits: list[int] = []
        for stake in self.stakes:
            quote = quotes.get(stake.instrument_id)
            raw = None if quote is None else quote.bid if stake.buy else quote.ask
            profit = None if raw is None else self._profit(stake, raw, quotes)
            if raw is None or profit is None:
                return None
            prices.append(raw)
            profits.append(profit)
        total = sum(profits)
        if not -LARGE < total < LARGE:
            return None
        equity, used = self.balance + total, self.used
        free = None if used is None else equity - used
        return Worth(prices, profits, total, equity, free, _half_even(equity * 10_000, used) if used else None)

    def _profit(self, stake: Stake, raw: int, quotes: Mapping[str, Quote]) -> int | None:
        gross = raw * stake.slope - stake.cost
        if not -LARGE < gross < LARGE:
            return None
        if stake.hop is None:
            return _half_even(gross + stake.fees, stake.unit)
        quote = quotes.get(stake.hop)
        rate = None if quote is None else quote.bid
        if rate is None or not 0 < rate < LARGEST_RATE:
            return None
        if stake.inverse:
            return _half_even(gross * self.price_unit + stake.fees * rate, rate * stake.unit)
        return _half_even(gross * rate + stake.fees * self.price_unit, stake.unit * self.price_unit)


def _half_even(amount: int, unit: int) -> int:
    """amount / unit, rounded half-even; unit positive."""
    whole, rest = divmod(amount, unit)
    rest += rest
    return whole + 1 if rest > unit or (rest == unit and whole & 1) else whole


def stakes_of(mirror: AccountMirror) -> Stakes | None:
    """The stakes of the present content; None where only Decimals will do."""
    if mirror.equity_rule is not EquityRule.PROFIT or mirror.balance is None or mirror.currency is None:
        return None
    if not (0 <= mirror.quote_digits <= _MOST_DIGITS and 0 <= mirror.money_digits <= MAX_DIGITS):
        return None
    used = used_margin(mirror)
    balance_minor = _whole(mirror.balance, mirror.money_digits)
    used_minor = None if used is None else _whole(used, mirror.money_digits)
    if balance_minor is None or (used is not None and (used_minor is None or used_minor < 0)):
        return None
    found: list[Stake] = []
    for position in mirror.positions.values():
        instrument = mirror.catalogue.instruments.get(position.instrument_id)
        chain = None if instrument is None else mirror.catalogue.chain(instrument.quote_asset, mirror.currency)
        stake = None if instrument is None or chain is None else _stake(mirror, position, instrument, chain)
        if stake is None:
            return None
        found.append(stake)
    return Stakes(found, balance_minor, used_minor, 10**mirror.quote_digits)


def _stake(mirror: AccountMirror, position: Position, instrument: Instrument, chain: Chain) -> Stake | None:
    if len(chain) > 1:
        return None
    units, cost = units_and_cost(position, instrument)
    digits, money_digits = mirror.quote_digits, mirror.money_digits
    swap, commission = position.swap, position.commission
    scale = max(money_digits + 1, digits + _decimals(units), *map(_decimals, (cost, swap, commission)))
    if scale > _MOST_SCALE:
        return None
    slope, paid = _whole(units, scale - digits), _whole(cost, scale)
    swapped, charged = _whole(swap, scale), _whole(commission, scale)
    if not slope or paid is None or swapped is None or charged is None:
        return None
    buy = position.side is Side.BUY
    sign = 1 if buy else -1
    hop = chain[0].instrument_id if chain else None
    unit = 10 ** (scale - money_digits)
    inverse = bool(chain) and chain[0].inverse
    return Stake(position.instrument_id, buy, sign * slope, sign * paid, swapped + charged, unit, hop, inverse)


def _decimals(amount: Decimal) -> int:
    exponent = amount.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else _MOST_SCALE + 1


def _whole(amount: Decimal, digits: int) -> int | None:
    """A whole number of 10^-digits; None when it is none, or too large."""
    if not amount.is_finite() or abs(amount) >= LARGE:
        return None
    numerator, denominator = amount.as_integer_ratio()
    whole, rest = divmod(numerator * 10**digits, denominator)
    return None if rest or not -LARGE < whole < LARGE else whole
