"""Orders as every broker's are told: sides, types, states, and a working order."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum


class Side(StrEnum):
    """Direction; units are always positive."""

    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(StrEnum):
    """The record's closed list of order types (DESIGN §6)."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"
    MARKET_RANGE = "market_range"
    TRAILING_STOP = "trailing_stop"


class OrderStatus(StrEnum):
    """States in which an order is shown as working (DESIGN §6)."""

    WORKING = "working"
    PARTIALLY_FILLED = "partially_filled"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    HELD = "held"


class TimeInForce(StrEnum):
    """How long an order may work."""

    GTC = "gtc"
    GTD = "gtd"
    IOC = "ioc"
    FOK = "fok"
    DAY = "day"


@dataclass(slots=True)
class Order:
    """A working order: units positive, prices absolute, times Unix ms.

    `updated_at_ms` orders two versions of the same order (0 when the broker gives no time); it is no content, so two
    versions that differ in it alone are equal.
    """

    id: str
    instrument_id: str
    side: Side
    type: OrderType
    units: Decimal
    filled_units: Decimal = Decimal(0)
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    status: OrderStatus = OrderStatus.WORKING
    created_at_ms: int | None = None
    updated_at_ms: int = field(default=0, compare=False)
    client_order_id: str | None = None
