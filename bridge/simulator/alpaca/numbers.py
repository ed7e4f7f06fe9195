"""Decimals as Alpaca writes and reads them: plain strings, never floats and never exponents.

Requests may carry strings or JSON numbers (reference/alpaca.md §1.4); both become exact Decimals here.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any

from bridge.simulator.alpaca.refusals import malformed

ZERO = Decimal(0)
# Wide enough for every product of a quantity, a price and a multiplier; divisions are rounded where they happen.
EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
CENT = Decimal("0.01")
# Quantities and average prices carry at most this many decimals.
NANO = Decimal("0.000000001")
LARGEST = Decimal(10**12)


def text(value: Decimal) -> str:
    """Plain decimal string without trailing zeros: Decimal("1.50") -> "1.5"."""
    plain = format(value, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain in ("-0", "") else plain


def maybe_text(value: Decimal | None) -> str | None:
    return None if value is None else text(value)


def cents(value: Decimal) -> Decimal:
    """Half-even to cents."""
    return value.quantize(CENT, context=EXACT)


def divided(amount: Decimal, by: Decimal, step: Decimal = NANO) -> Decimal:
    """A quotient, half-even to `step`."""
    return EXACT.divide(amount, by).quantize(step, context=EXACT)


def decimals_of(value: Decimal) -> int:
    """How many decimals a number has, trailing zeros aside."""
    exponent = value.normalize(EXACT).as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def read_decimal(body: Mapping[str, Any], name: str) -> Decimal | None:
    """A positive number of a request; None when it is absent, null or empty. Raises ApiRefusal (422)."""
    value = body.get(name)
    if value is None or value == "":
        return None
    try:
        number = Decimal(str(value)) if not isinstance(value, bool) else Decimal("NaN")
    except InvalidOperation as cause:
        raise malformed(f"{name} is not a number") from cause
    if not number.is_finite() or not 0 < number <= LARGEST:
        raise malformed(f"{name} must be > 0")
    if decimals_of(number) > 9:
        raise malformed(f"{name} is limited to 9 decimal places")
    return number
