"""Market data as messages: trades, quotes, books and bars with the keys of the wire. Values only, no I/O.

Source: reference/alpaca.md §3.3. Numbers are JSON numbers here (the broker's choice, not ours), times are `Nanos`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.market.prices import Tick
from bridge.simulator.alpaca.streams.frames import Nanos
from bridge.simulator.alpaca.streams.minute_bars import Bar

_BAR_TYPES = {"bars": "b", "updatedBars": "u", "dailyBars": "d"}
EXCHANGE = "V"  # IEX
TAPE = "C"


def number(value: Decimal) -> int | float:
    """A whole number as such, anything else as the nearest double."""
    return int(value) if value == value.to_integral_value() else float(value)


def trade(tick: Tick) -> dict[str, Any]:
    message: dict[str, Any] = {
        "T": "t",
        "S": tick.symbol,
        "i": tick.id,
        "p": number(tick.price),
        "s": number(tick.size),
        "t": Nanos(tick.at_ns),
    }
    if tick.asset_class == "crypto":
        return message | {"tks": "B" if tick.price >= tick.ask else "S"}
    return message | {"x": EXCHANGE, "c": ["@"], "z": TAPE}


def quote(tick: Tick) -> dict[str, Any]:
    message: dict[str, Any] = {
        "T": "q",
        "S": tick.symbol,
        "bp": number(tick.bid),
        "bs": number(tick.bid_size),
        "ap": number(tick.ask),
        "as": number(tick.ask_size),
        "t": Nanos(tick.at_ns),
    }
    if tick.asset_class == "crypto":
        return message
    return message | {"bx": EXCHANGE, "ax": EXCHANGE, "c": ["R"], "z": TAPE}


def book(tick: Tick) -> dict[str, Any]:
    """The whole order book (one level a side), so always a reset."""
    return {
        "T": "o",
        "S": tick.symbol,
        "t": Nanos(tick.at_ns),
        "b": [{"p": number(tick.bid), "s": number(tick.bid_size)}],
        "a": [{"p": number(tick.ask), "s": number(tick.ask_size)}],
        "r": True,
    }


def bar(channel: str, symbol: str, of: Bar) -> dict[str, Any]:
    return {
        "T": _BAR_TYPES[channel],
        "S": symbol,
        "o": number(of.open),
        "h": number(of.high),
        "l": number(of.low),
        "c": number(of.close),
        "v": number(of.volume),
        "t": Nanos(of.began_ns),
        "n": of.trades,
        "vw": number(of.average),
    }
