"""Values that no broker should send and one day does, for trade updates and REST documents alike."""

from __future__ import annotations

from typing import Any, Literal

UNKNOWN = "zz_unknown"
Absurdity = Literal["negative_qty", "nan_price", "inf_price", "huge_money", "not_a_number", "year_1970", "year_2100"]
_QUANTITIES = ("qty", "position_qty", "filled_qty", "qty_available")
_PRICES = ("price", "limit_price", "stop_price", "filled_avg_price", "avg_entry_price", "current_price")
_MONEY = ("cash", "equity", "market_value", "cost_basis", "initial_margin", "buying_power", *_PRICES)


def distort(document: dict[str, Any], variant: str) -> bool:
    """Put the absurd value in, at any depth; False when the document has no place for it."""
    hit = False
    for name, value in document.items():
        if isinstance(value, dict):
            hit = distort(value, variant) or hit
        elif value is not None and (absurd := _absurd(name, value, variant)) is not None:
            document[name] = absurd
            hit = True
    return hit


def _absurd(name: str, value: Any, variant: str) -> str | None:
    """The absurd value for a field, None when the variant leaves the field alone."""
    table = {
        "negative_qty": (_QUANTITIES, "-999999999"),
        "nan_price": (_PRICES, "NaN"),
        "inf_price": (_PRICES, "Infinity"),
        "huge_money": (_MONEY, "1000000000000000000000000"),
        "not_a_number": ((*_QUANTITIES, *_PRICES), "1,0"),
        "year_1970": (("timestamp", "at", "created_at", "updated_at", "filled_at"), "1970-01-01T00:00:00.000000001Z"),
        "year_2100": (("timestamp", "at", "created_at", "updated_at", "filled_at"), "2100-01-01T00:00:00Z"),
    }
    names, absurd = table[variant]
    return absurd if name in names and isinstance(value, str) else None
