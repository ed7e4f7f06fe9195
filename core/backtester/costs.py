"""Cost models by name: commission per side, slippage, overnight swap, as terms of `core.paper_trader`.

The engine charges them, so a backtest, a paper account and a simulator with the same terms charge the same. Spread is
data (`Bars.spread`), or `relative_spread` for a peer's model.
"""

from __future__ import annotations

from decimal import Decimal

from core.errors import InvalidInput
from core.paper_trader import Commission, CommissionKind, Slippage, Swap, SwapKind


def no_commission() -> Commission:
    """Nothing."""
    return Commission()


def commission_of_value(fraction: Decimal) -> Commission:
    """`fraction` of units × price at every deal: 0.001 is a tenth of a percent."""
    return Commission(CommissionKind.PERCENT_OF_VALUE, _least_zero(fraction, "fraction") * 100)


def commission_per_lot(amount: Decimal, *, minimum: Decimal = Decimal(0)) -> Commission:
    """`amount` of the quote currency per lot (per unit where the instrument has no lots) at every deal."""
    return Commission(
        CommissionKind.PER_LOT_QUOTE, _least_zero(amount, "amount"), minimum=_least_zero(minimum, "minimum")
    )


def commission_per_million_usd(amount: Decimal) -> Commission:
    """`amount` USD per million USD of volume at every deal."""
    return Commission(CommissionKind.PER_MILLION_USD, _least_zero(amount, "amount"))


def slippage_points(points: int) -> Slippage:
    """Fills at the market are that many points worse than the quote."""
    return Slippage(points=Decimal(_least_zero(Decimal(points), "points")))


def slippage_fraction(fraction: Decimal, *, exact: bool = False) -> Slippage:
    """Fills at the market are worse by that fraction of the price, rounded to the digits against you unless `exact`."""
    return Slippage(fraction=_below_one(fraction), exact=exact)


def relative_spread(fraction: Decimal) -> Slippage:
    """A spread paid once: opening fills are worse by that fraction of the price, exactly; closing ones pay nothing."""
    return Slippage(fraction=_below_one(fraction), on_close=False, exact=True)


def swap_points(long: Decimal, short: Decimal, *, minute_utc: int = 22 * 60) -> Swap:
    """Points per unit and night, signed (negative is paid), at that minute of the UTC day."""
    return Swap(SwapKind.POINTS, long, short, minute_utc)


def _least_zero(value: Decimal, field: str) -> Decimal:
    if not value.is_finite() or value < 0:
        raise InvalidInput(f"{field} must be at least 0", field=field)
    return value


def _below_one(fraction: Decimal) -> Decimal:
    if _least_zero(fraction, "fraction") >= 1:
        raise InvalidInput("fraction must be below 1", field="fraction")
    return fraction
