"""Implied volatility of European options, over long arrays, and the reason where there is none.

The price is split into intrinsic and time value, the latter put in units of its bound: c = time value / min(P, Q), with
P and Q the discounted forward and strike. The usual option is solved in one step (`core.greeks.usual`), the others by
`core.greeks.rootfinder`. The split repeats what `core.greeks.price` does, operation by operation, so that rounding in P
and Q drops out of a round trip.

Precision: a price carries a relative error of 2⁻⁵³ at best, so its volatility is known to about price × 2⁻⁵² / vega.
Within that the answer is right to about 1e-12; where it is 1e-11 or more, so is the answer's error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from core.greeks.dividends import Dividends
from core.greeks.inputs import Floats, Kinds, Numbers, OptionKind, common_shape, numbers
from core.greeks.rootfinder import find
from core.greeks.terms import Market, market
from core.greeks.usual import usual

BLOCK = 8192  # contracts at a time: the dozen arrays of a block stay in a processor's cache
ROUNDING = 4.0 * 2.0**-52  # of P + Q: a price below intrinsic by less may be there by rounding alone
TINY = 1e-300  # instead of a distance of 0 to the forward, which divides

Codes = npt.NDArray[np.int8]


class NoVolatility(IntEnum):
    """Why there is no volatility. Checked in the order of these numbers; 0 says that there is one."""

    NONE = 0
    EXPIRED = 1  # years ≤ 0: the price is the intrinsic value whatever the volatility
    BELOW_INTRINSIC = 2  # below max(η (P − Q), 0) by more than rounding: no volatility makes it so cheap
    ABOVE_BOUND = 3  # at or above P for a call, Q for a put: no finite volatility makes it so dear
    NO_TIME_VALUE = 4  # the intrinsic value itself, to the last digits: any volatility near 0 fits, vega is 0


@dataclass(frozen=True, slots=True)
class ImpliedVolatility:
    """`volatility` is nan where `reason` is not NONE: a float and a reason, or arrays of one shape."""

    volatility: float | Floats
    reason: NoVolatility | Codes


def implied_volatility(
    kind: Kinds | OptionKind,
    price: Numbers,
    spot: Numbers,
    strike: Numbers,
    years: Numbers,
    rate: Numbers,
    dividend_yield: Numbers = 0.0,
    dividends: Dividends | None = None,
) -> ImpliedVolatility:
    """The volatility at which `core.greeks.price` gives `price` (units of the spot, any finite number).

    Arguments are numbers or arrays that broadcast: a batch of chains is fastest with prices and strikes of shape (n, m)
    and what a chain has in common of shape (n, 1). Unlike elsewhere, `years` may be 0 or negative. Raises InvalidInput.
    """
    asked, left = numbers("price", price), numbers("years", years)
    expired = left <= 0.0
    any_expired = bool(expired.any())
    found = market(
        kind, spot, strike, np.where(expired, 0.0, left) if any_expired else left, rate, dividend_yield, dividends
    )
    shape = common_shape(
        kind=found.sign, price=asked, spot=found.forward_pv, strike=found.strike, rate=found.discount, years=left
    )
    root_years = np.sqrt(np.where(expired, 1.0, left)) if any_expired else np.sqrt(left)
    values, codes = _solved(asked, found, root_years, shape)
    if any_expired:
        late = np.broadcast_to(expired, shape)
        values = np.where(late, np.nan, values)
        codes = np.where(late, np.int8(NoVolatility.EXPIRED), codes)
    if shape == ():
        return ImpliedVolatility(float(values), NoVolatility(int(codes)))
    return ImpliedVolatility(values, codes)


def _solved(asked: Floats, found: Market, root_years: Floats, shape: tuple[int, ...]) -> tuple[Floats, Codes]:
    """Volatilities and codes of `shape`: some rows of the first axis at a time, then at once what was not usual."""
    wide = shape or (1,)
    given = (asked, found.sign, found.forward_pv, found.strike, found.discount, root_years)
    full = [array.reshape((1,) * (len(wide) - array.ndim) + array.shape) for array in given]
    values, codes = np.empty(wide), np.zeros(wide, dtype=np.int8)
    at_once = max(1, BLOCK * wide[0] // max(1, values.size))
    unusual = []
    for start in range(0, wide[0], at_once):
        part = slice(start, start + at_once)
        rows, *rest = _block(*(array[part] if array.shape[0] > 1 else array for array in full), out=values[part])
        if rows.size:
            unusual.append((rows + start * (values.size // wide[0]), *rest))
    if unusual:
        flat = values.reshape(-1)
        rows, c, u, rounding, root = (np.concatenate(column) for column in zip(*unusual, strict=True))
        s, why = _unusual(c, u, rounding)
        flat[rows] = s / root
        codes.reshape(-1)[rows] = why
    return values.reshape(shape), codes.reshape(shape)


def _block(
    asked: Floats,
    sign: Floats,
    forward_pv: Floats,
    strike: Floats,
    discount: Floats,
    root_years: Floats,
    *,
    out: Floats,
) -> tuple[npt.NDArray[np.intp], Floats, Floats, Floats, Floats]:
    """Fill in the usual ones; of the others return the places in `out` (counted flat), c, u, rounding in c, and √T."""
    shape, size = out.shape, out.size
    with np.errstate(all="ignore"):  # what has no answer may become anything before it becomes nan
        strike_pv = strike * discount
        h = np.subtract(forward_pv, strike_pv, out=np.empty(shape))
        bound = np.minimum(forward_pv, strike_pv)
        c = h * sign
        np.maximum(c, 0.0, out=c)  # intrinsic value
        np.subtract(asked, c, out=c)
        c /= bound
        np.abs(h, out=h)
        h /= bound
        np.maximum(h, TINY, out=h)
        u = np.log1p(h).reshape(size)
        c = c.reshape(size)
        s, good = usual(c, u, h.reshape(size))
        np.divide(s.reshape(shape), root_years, out=out)
    if good.all():
        rows = np.empty(0, dtype=np.intp)
        return rows, c[:0], u[:0], s[:0], s[:0]
    rows = np.flatnonzero(~good)
    places = np.unravel_index(rows, shape)
    with np.errstate(over="ignore"):
        rounding = ROUNDING * np.broadcast_to((forward_pv + strike_pv) / bound, shape)[places]
    return rows, c[rows], u[rows], rounding, np.broadcast_to(root_years, shape)[places]


def _unusual(c: Floats, u: Floats, rounding: Floats) -> tuple[Floats, Codes]:
    """s of each, or nan and the reason."""
    why = np.zeros(c.shape, dtype=np.int8)
    why[c <= 0.0] = NoVolatility.NO_TIME_VALUE
    why[c < -rounding] = NoVolatility.BELOW_INTRINSIC
    why[c >= 1.0] = NoVolatility.ABOVE_BOUND
    s = np.full(c.shape, np.nan)
    there = why == NoVolatility.NONE
    if there.any():
        s[there] = find(c[there], 1.0 - c[there], u[there])
    return s, why
