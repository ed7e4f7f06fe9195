"""FILL activities: the executions that REST tells of, by which missed ones are found. Pure.

Shapes are those of reference/alpaca.md §1.3; the second half of an activity's id is the execution's (§2.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from bridge.brokers.alpaca import times
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.values import Document, UnknownValue, identity, needed, symbol, word
from core.errors import ProtocolViolation
from core.events import Fill
from core.orders import Side

SIDES = {
    "buy": Side.BUY,
    "buy_minus": Side.BUY,
    "buy_to_cover": Side.BUY,
    "sell": Side.SELL,
    "sell_plus": Side.SELL,
    "sell_short": Side.SELL,
    "sell_short_exempt": Side.SELL,
}


@dataclass(frozen=True, slots=True)
class Activity:
    """One execution as REST tells it; units positive. Its id and time judge a reading, the rest may be unreadable."""

    execution_id: str
    at_ms: int
    order_id: str | None = None
    symbol: str | None = None
    side: Side | None = None
    units: Decimal | None = None
    price: Decimal | None = None


def read_activity(source: Document) -> Activity:
    """A FILL activity. Raises ProtocolViolation when its id or time cannot be read."""
    name, at_ms = times.execution_id(source.get("id")), times.to_ms(source.get("transaction_time"))
    if at_ms is None:
        raise ProtocolViolation("a fill without a time")
    try:
        units = abs(needed(source, "qty"))
        return Activity(
            name, at_ms, identity(source, "order_id"), symbol(source), side_of(source), units, needed(source, "price")
        )
    except ProtocolViolation:
        return Activity(name, at_ms)  # it happened, whatever it was


def side_of(source: Document) -> Side:
    """The side of an activity or order. Raises UnknownValue for a word that is neither buying nor selling."""
    found = SIDES.get(word(source, "side") or "")
    if found is None:
        raise UnknownValue("neither buy nor sell")
    return found


def fill_of(activity: Activity, assets: Assets, *, recovered: bool) -> Fill | None:
    """The fact of an activity, None when it cannot be told. An asset not yet described is named by its symbol."""
    side, units, price = activity.side, activity.units, activity.price
    if activity.symbol is None or side is None or not units or price is None:
        return None
    instrument_id = assets.id_of_symbol(activity.symbol) or activity.symbol
    order_id = activity.order_id or ""
    return Fill(activity.execution_id, order_id, instrument_id, side, units, price, activity.at_ms, recovered)
