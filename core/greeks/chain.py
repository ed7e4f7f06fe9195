"""An option chain as columns: the contracts of one underlying, seen at one moment.

Holds no quotes beyond the prices it is given and asks nobody for more. Invariant: all columns have one length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput
from core.greeks.black_scholes import Greeks, greeks
from core.greeks.dividends import Dividends
from core.greeks.implied import ImpliedVolatility, implied_volatility
from core.greeks.inputs import Floats, Kinds, Numbers, numbers, positive, signs


@dataclass(frozen=True, slots=True)
class Chain:
    """Rows are contracts; spot, rate, yield and dividends are the underlying's. Build it with `Chain.of`."""

    sign: Floats
    strike: Floats
    years: Floats
    spot: float
    rate: float
    dividend_yield: float
    dividends: Dividends | None

    @classmethod
    def of(
        cls,
        kind: Kinds,
        strike: Numbers,
        years: Numbers,
        *,
        spot: float,
        rate: float,
        dividend_yield: float = 0.0,
        dividends: Dividends | None = None,
    ) -> Chain:
        """Columns of one length, or numbers where all rows have the same. Raises InvalidInput."""
        columns = {"kind": signs(kind), "strike": positive("strike", strike), "years": numbers("years", years)}
        length = max(column.size for column in columns.values())
        for name, column in columns.items():
            if column.ndim > 1 or column.size not in (1, length):
                raise InvalidInput(f"{name} must be a column of {length} rows, not {column.shape}", field=name)
            columns[name] = np.broadcast_to(column, (length,))
        positive("spot", spot)
        numbers("rate", rate)
        numbers("dividend_yield", dividend_yield)
        return cls(columns["kind"], columns["strike"], columns["years"], spot, rate, dividend_yield, dividends)

    def __len__(self) -> int:
        return self.strike.size

    def implied_volatility(self, price: Numbers) -> ImpliedVolatility:
        """Of each row, from its price; expired rows and impossible prices are nan, with the reason."""
        return implied_volatility(
            self.sign, price, self.spot, self.strike, self.years, self.rate, self.dividend_yield, self.dividends
        )

    def greeks(self, volatility: Numbers) -> Greeks:
        """Of each row, at its volatility. Raises InvalidInput where a row has expired by more than 0."""
        return greeks(
            self.sign, self.spot, self.strike, self.years, self.rate, volatility, self.dividend_yield, self.dividends
        )

    def table(self, volatility: Numbers) -> dict[str, npt.NDArray[np.generic]]:
        """Kind, strike, years, volatility and all Greeks by name: what `pandas.DataFrame` takes as it is."""
        wide = np.broadcast_to(numbers("volatility", volatility), self.strike.shape)
        kinds = np.where(self.sign > 0.0, "call", "put")
        known: dict[str, npt.NDArray[np.generic]] = {
            "kind": kinds,
            "strike": self.strike,
            "years": self.years,
            "volatility": wide,
        }
        return known | self.greeks(volatility).columns()
