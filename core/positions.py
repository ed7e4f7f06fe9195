"""An open position of an account mirror."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from core.orders import Side


@dataclass(slots=True)
class Position:
    """Units positive; money in the account's deposit currency; prices absolute; times Unix ms.

    `swap` and `commission` are negative when charged. `used_margin` is None when the broker has not said.
    `updated_at_ms` orders two versions of the same position (0 when the broker gives no time); it is no content, so two
    versions that differ in it alone are equal. `cost`: what the units held were bought (or sold short) for in the quote
    currency, positive, where the broker says it; else entry price x units x multiplier. In place change `used_margin`,
    `stop_loss` and `updated_at_ms` only; anything else comes with a new object.
    """

    id: str
    instrument_id: str
    side: Side
    units: Decimal
    entry_price: Decimal
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    swap: Decimal = Decimal(0)
    commission: Decimal = Decimal(0)
    used_margin: Decimal | None = None
    opened_at_ms: int | None = None
    updated_at_ms: int = field(default=0, compare=False)
    cost: Decimal | None = None
