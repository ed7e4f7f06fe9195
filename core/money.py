"""Exact money: integers in minor units and Decimals, never floats.

Brokers send integers with a digit count in the same message (Open API reference §4.1) or decimal strings.
Both become Decimal here without loss; rounding is half-even and happens only where a function says so.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

from core.errors import ProtocolViolation

# Largest magnitude that a float64 JSON number still carries exactly to the last digit (15 significant digits).
MAX_MINOR_UNITS = 10**15 - 1
MAX_DIGITS = 12

_CONTEXT = Context(prec=40, rounding=ROUND_HALF_EVEN)
_UNITS = tuple(Decimal(1).scaleb(-digits) for digits in range(MAX_DIGITS + 1))


def from_minor(amount: int, digits: int) -> Decimal:
    """Minor units to Decimal: (12345, 2) -> 123.45. Raises ProtocolViolation for absurd sizes or digits."""
    if not 0 <= digits <= MAX_DIGITS:
        raise ProtocolViolation(f"money digits out of range: {digits}")
    if not -MAX_MINOR_UNITS <= amount <= MAX_MINOR_UNITS:
        raise ProtocolViolation("money amount out of range")
    return Decimal(amount).scaleb(-digits)


def to_minor(amount: Decimal, digits: int) -> int:
    """Decimal to minor units, rounded half-even: (123.455, 2) -> 12346."""
    return int(round_money(amount, digits).scaleb(digits))


def round_money(amount: Decimal, digits: int) -> Decimal:
    """Round half-even to `digits` decimals."""
    return amount.quantize(_UNITS[digits], context=_CONTEXT)


def json_number(value: Decimal | None) -> float | int | None:
    """The JSON number of an exact value: an int when whole, else the shortest float that prints the same digits.

    Exact for everything of at most 15 significant digits, which is what `from_minor` lets in.
    """
    if value is None:
        return None
    number = float(value)
    return int(number) if number.is_integer() else number
