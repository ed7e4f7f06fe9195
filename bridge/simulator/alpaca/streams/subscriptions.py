"""What one market-data connection is subscribed to, and which wishes a feed refuses. Sans I/O.

Source: reference/alpaca.md §3.2 and §3.4. Subscribing adds, unsubscribing subtracts, each is answered with the full
list; corrections and cancelErrors follow trades. A refused wish changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

ALL = "*"
_FOLLOWERS = ("corrections", "cancelErrors")  # of trades
_STOCK_CHANNELS = ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds")
_CRYPTO_CHANNELS = ("trades", "quotes", "orderbooks", "bars", "updatedBars", "dailyBars")
_KNOWN = {*_STOCK_CHANNELS, *_CRYPTO_CHANNELS, *_FOLLOWERS, "imbalances", "news"}
_STOCK_SYMBOL = re.compile(r"[A-Z][A-Z0-9]*([.\-][A-Z0-9]+)*")
_CRYPTO_SYMBOL = re.compile(r"[A-Z0-9]+/[A-Z0-9]+")


class Refused(Exception):
    """A wish is refused with one of the codes of reference §3.4."""

    def __init__(self, code: int) -> None:
        super().__init__(ERRORS[code])
        self.code = code


ERRORS = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    404: "auth timeout",
    405: "symbol limit exceeded",
    406: "connection limit exceeded",
    407: "slow client",
    409: "insufficient subscription",
    410: "invalid subscribe action for this feed",
    411: "insufficient scope",
    500: "internal error",
}


@dataclass(frozen=True, slots=True)
class Feed:
    """One market-data endpoint. `symbol_limit` counts symbols with trades or quotes on a connection."""

    path: str
    asset_class: str
    symbol_limit: int | None = None

    @property
    def is_crypto(self) -> bool:
        return self.asset_class == "crypto"

    @property
    def channels(self) -> tuple[str, ...]:
        return _CRYPTO_CHANNELS if self.is_crypto else _STOCK_CHANNELS

    def is_symbol(self, text: object) -> bool:
        """Whether it could be a symbol here: crypto has a slash, stocks have none."""
        pattern = _CRYPTO_SYMBOL if self.is_crypto else _STOCK_SYMBOL
        return isinstance(text, str) and (text == ALL or pattern.fullmatch(text) is not None)


@dataclass(slots=True)
class Subscriptions:
    """The channels of one connection with their symbols."""

    feed: Feed
    _symbols: dict[str, set[str]] = field(default_factory=dict)

    def change(self, message: dict[str, Any], *, add: bool) -> None:
        """Apply a subscribe or unsubscribe message. Raises Refused."""
        wishes = self._wishes(message)
        after = {channel: set(symbols) for channel, symbols in self._symbols.items()}
        for channel, symbols in wishes.items():
            if add:
                after.setdefault(channel, set()).update(symbols)
            else:
                after.get(channel, set()).difference_update(symbols)
        if add and self._exceeds_limit(after):
            raise Refused(405)
        self._symbols = after

    def wants(self, channel: str, symbol: str) -> bool:
        symbols = self._symbols.get("trades" if channel in _FOLLOWERS else channel)
        return symbols is not None and (symbol in symbols or ALL in symbols)

    def listing(self) -> dict[str, Any]:
        """The answer to every change."""
        lists: dict[str, Any] = {"T": "subscription"}
        for channel in self.feed.channels:
            lists[channel] = sorted(self._symbols.get(channel, ()))
        if not self.feed.is_crypto:
            lists |= dict.fromkeys(_FOLLOWERS, lists["trades"])
        return lists

    def _wishes(self, message: dict[str, Any]) -> dict[str, list[str]]:
        wishes = {}
        for channel, symbols in message.items():
            if channel == "action":
                continue
            if channel not in _KNOWN or not isinstance(symbols, list):
                raise Refused(400)
            if not all(self.feed.is_symbol(each) for each in symbols):
                raise Refused(400)
            if channel in _FOLLOWERS and not self.feed.is_crypto:
                continue  # they follow trades, whatever is asked
            if channel not in self.feed.channels:
                raise Refused(410)
            wishes[channel] = symbols
        if not wishes and len(message) < 2:
            raise Refused(400)
        return wishes

    def _exceeds_limit(self, symbols: dict[str, set[str]]) -> bool:
        limit = self.feed.symbol_limit
        if limit is None:
            return False
        counted = set(_of(symbols, "trades")) | set(_of(symbols, "quotes"))
        return ALL in counted or len(counted) > limit


def _of(symbols: dict[str, set[str]], channel: str) -> Iterable[str]:
    return symbols.get(channel, ())
