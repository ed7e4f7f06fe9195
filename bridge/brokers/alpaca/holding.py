"""What one execution does to a position and to cash. Pure arithmetic; Alpaca keeps one net position per asset.

Adding averages the price, closing keeps it, turning over begins anew. The event's own position quantity is absolute
and wins over ours (reference/alpaca.md §2.2). A reading of the broker's own figures follows every execution.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

from bridge.brokers.alpaca.values import CONTEXT, QUOTE_DIGITS
from core.orders import Side
from core.positions import Position

_ZERO = Decimal(0)
_multiply, _divide = CONTEXT.multiply, CONTEXT.divide
_PRICE_STEP = Decimal(1).scaleb(-QUOTE_DIGITS)
_COST_STEP = Decimal("1E-12")


def signed(side: Side, units: Decimal) -> Decimal:
    """Units with the sign of their direction."""
    return units if side is Side.BUY else -units


def cash_moved(side: Side, units: Decimal, price: Decimal, multiplier: Decimal) -> Decimal:
    """What an execution adds to the cash: buying costs, selling brings."""
    paid = _cost(units, price, multiplier)
    return -paid if side is Side.BUY else paid


def after(
    old: Position | None, instrument_id: str, traded: Decimal, price: Decimal, held: Decimal | None, multiplier: Decimal
) -> Position | None:
    """The position after an execution; None when it is flat. `traded` and `held` (the quantity that the broker says is
    held afterwards, None when it does not) are negative when sold or short."""
    now = held if held is not None else traded if old is None else signed(old.side, old.units) + traded
    if not now:
        return None
    side, units = (Side.BUY, now) if now > _ZERO else (Side.SELL, now.copy_negate())
    if old is None or old.side is not side:
        entry, cost = price, _cost(units, price, multiplier)
    else:
        entry = old.entry_price
        cost = old.cost if old.cost is not None else _cost(old.units, entry, multiplier)
        if units > old.units:
            cost += _cost(units - old.units, price, multiplier)
            entry = _divided(cost, _multiply(units, multiplier), _PRICE_STEP)
        elif units < old.units:
            cost = _divided(_multiply(cost, units), old.units, _COST_STEP)
    # by position: by name would cost more than the sums above
    return Position(instrument_id, instrument_id, side, units, entry, None, None, _ZERO, _ZERO, None, None, 0, cost)


def _cost(units: Decimal, price: Decimal, multiplier: Decimal) -> Decimal:
    return _multiply(_multiply(units, price), multiplier)


def _divided(amount: Decimal, by: Decimal, step: Decimal) -> Decimal:
    """A quotient without endless digits."""
    exact = _divide(amount, by)
    return exact if exact == (rounded := exact.quantize(step, ROUND_HALF_EVEN, CONTEXT)) else rounded
