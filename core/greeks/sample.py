"""A made-up option chain: prices in whole cents over a smile, the same from the same seed. Nobody's quotes.

As in a real one, cents are too coarse for the deepest rows: some have no implied volatility.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput
from core.greeks.black_scholes import price
from core.greeks.inputs import Floats

SPOT, RATE, DIVIDEND_YIELD = 100.0, 0.03, 0.01


@dataclass(frozen=True, slots=True)
class SampleChain:
    """Columns of equal length, and what all rows have in common."""

    kind: npt.NDArray[np.str_]
    strike: Floats
    years: Floats
    price: Floats
    spot: float = SPOT
    rate: float = RATE
    dividend_yield: float = DIVIDEND_YIELD


def sample_chain(strikes: int = 9, *, seed: int = 1) -> SampleChain:
    """Calls and puts at so many strikes, for one and six months. Raises InvalidInput for fewer than 2 strikes."""
    if strikes < 2:
        raise InvalidInput("a chain needs at least 2 strikes", field="strikes")
    rng = np.random.default_rng(seed)
    ladder = np.rint(np.linspace(0.6, 1.4, strikes) * SPOT)
    kind = np.tile(np.repeat(np.array(["call", "put"]), strikes), 2)
    strike, years = np.tile(ladder, 4), np.repeat([1 / 12, 0.5], 2 * strikes)
    smile = 0.18 + 0.25 * np.log(strike / SPOT) ** 2 - 0.08 * np.log(strike / SPOT)
    noise = rng.normal(0.0, 0.002, len(strike))
    exact = np.asarray(price(kind, SPOT, strike, years, RATE, smile + noise, DIVIDEND_YIELD))
    return SampleChain(kind, strike, years, np.rint(exact * 100.0) / 100.0)
