"""Single values out of Alpaca's documents, where any field may be missing, null or empty. Pure.

Money, prices and quantities are decimal strings; JSON numbers are taken too (reference/alpaca.md §1.3). Invariant: what
is absurd (NaN, a hundred digits, text for a number) raises ProtocolViolation and nothing else, and is never used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Any

from core.errors import ProtocolViolation

Document = Mapping[str, Any]

LONGEST_ID, LONGEST_WORD = 128, 64  # characters
QUOTE_DIGITS = 9  # prices in mirrors are integers of 10^-9
CONTEXT = Context(prec=40, rounding=ROUND_HALF_EVEN)
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,18})?")
_LARGEST = 10**15
_ID = re.compile(rf"[ -~]{{1,{LONGEST_ID}}}")
_SYMBOL = re.compile(r"[A-Z0-9./ _-]{1,64}", re.IGNORECASE)


class UnknownValue(ProtocolViolation):
    """A word of a closed list that we do not know: a new type or state. Counted apart from what is broken."""


def document(value: object) -> Document:
    """A JSON object. Raises ProtocolViolation."""
    if type(value) is not dict:
        raise ProtocolViolation("not a JSON object")
    return value


def documents(value: object) -> list[Document]:
    """A JSON list of objects. Raises ProtocolViolation."""
    if not isinstance(value, list):
        raise ProtocolViolation("not a JSON list")
    return [document(each) for each in value]


def number(value: object) -> Decimal | None:
    """A decimal; None when absent, null or empty. Raises ProtocolViolation."""
    if type(value) is str:
        return number_in(value) if value else None
    if value is None:
        return None
    if type(value) is int and abs(value) < _LARGEST:
        return Decimal(value)
    if type(value) is float and math.isfinite(value) and abs(value) < _LARGEST:
        return Decimal(repr(value))
    raise ProtocolViolation("not a number")


@lru_cache(maxsize=8192)  # quantities and prices repeat, and one text always means one number
def number_in(text: str) -> Decimal:
    """The number that a text is. Raises ProtocolViolation."""
    if not _NUMBER.fullmatch(text):
        raise ProtocolViolation("not a number")
    return Decimal(text)


def needed(source: Document, name: str) -> Decimal:
    """A number that must be there. Raises ProtocolViolation."""
    value = number(source.get(name))
    if value is None:
        raise ProtocolViolation(f"{name} is missing")
    return value


def price(value: object) -> Decimal | None:
    """A price above zero; None when absent or zero, which is how some fields say none. Raises ProtocolViolation."""
    return price_in(value) if type(value) is str else _price_of(number(value))


def _price_of(found: Decimal | None) -> Decimal | None:
    if found is not None and found < 0:
        raise ProtocolViolation("a price below zero")
    return found or None


@lru_cache(maxsize=8192)
def price_in(text: str) -> Decimal | None:
    """`price` of a text."""
    return _price_of(number(text))


def amount(value: object) -> Decimal | None:
    """A quantity that is not negative; None when absent. Raises ProtocolViolation."""
    return amount_in(value) if type(value) is str else _amount_of(number(value))


def _amount_of(found: Decimal | None) -> Decimal | None:
    if found is not None and found < 0:
        raise ProtocolViolation("a quantity below zero")
    return found


@lru_cache(maxsize=8192)
def amount_in(text: str) -> Decimal | None:
    """`amount` of a text."""
    return _amount_of(number(text))


def raw_price(value: Decimal) -> int:
    """A price as the mirror keeps quotes: an integer of 10^-9."""
    return int(value.scaleb(QUOTE_DIGITS, CONTEXT).to_integral_value(ROUND_HALF_EVEN))


def is_id(text: str) -> bool:
    """Whether this can be an id."""
    return _ID.fullmatch(text) is not None


def identity(source: Document, name: str) -> str | None:
    """An id; None when absent. Raises ProtocolViolation for what cannot be one."""
    value = source.get(name)
    if type(value) is str:
        if is_id(value):
            return value
        if not value:
            return None
    elif value is None:
        return None
    raise ProtocolViolation(f"{name} is no id")


def word(source: Document, name: str) -> str | None:
    """A word or name of up to 64 characters; None when absent. Raises ProtocolViolation."""
    value = source.get(name)
    if type(value) is str:
        if len(value) <= LONGEST_WORD and value.isprintable():
            return value or None
    elif value is None:
        return None
    raise ProtocolViolation(f"{name} is no word")


def symbol(source: Document) -> str | None:
    """A symbol as the broker writes it; None when absent. Raises ProtocolViolation."""
    value = source.get("symbol")
    if value is None or value == "":
        return None
    if type(value) is not str or not _SYMBOL.fullmatch(value):
        raise ProtocolViolation("not a symbol")
    return value


def flag(source: Document, name: str) -> bool | None:
    """True or false; None when absent. Raises ProtocolViolation."""
    value = source.get(name)
    if value is not None and type(value) is not bool:
        raise ProtocolViolation(f"{name} is neither true nor false")
    return value
