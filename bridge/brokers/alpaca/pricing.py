"""Prices and quantities out of a poll of positions, and how they go with what the sockets tell. Pure.

A price that a socket told lately wins: REST may lag behind it (alpaca.md §8.1). An old one does not: a socket can be
open and mute (§5.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from core.account import AccountMirror
from core.events import BalanceChanged
from core.positions import Position


class Covering(Protocol):
    """What the sockets tell of an account's instruments."""

    def covers(self, instrument_id: str) -> bool:
        """Whether its prices come over a socket now."""

    def priced_at(self, instrument_id: str) -> float | None:
        """When a socket told its last price (monotonic s); None when none did."""

    def doubt(self, instrument_id: str) -> None:
        """The broker says another price than the socket does."""


def take_prices(mirror: AccountMirror, sockets: Covering, prices: Mapping[str, int], fresh_since: float) -> None:
    """Set the prices of what is held, but for those that a socket told after `fresh_since` (monotonic s)."""
    for position in mirror.positions.values():
        instrument_id = position.instrument_id
        price = prices.get(instrument_id)
        told_at = sockets.priced_at(instrument_id)
        if price is None or (told_at is not None and told_at >= fresh_since):
            continue
        quote = mirror.quotes.get(instrument_id)
        if quote is not None and quote.bid == price:
            continue
        if quote is not None and sockets.covers(instrument_id):
            sockets.doubt(instrument_id)
        mirror.set_quote(instrument_id, price, price)


def forget_unfed(mirror: AccountMirror, sockets: Covering) -> None:
    """Drop the prices that no socket renews: an old price must not look like a present one."""
    mirror.forget_quotes([key for key in mirror.quotes if not sockets.covers(key)])
    mirror.mark_dirty()


def disagrees(mirror: AccountMirror, positions: Iterable[Position | None], cash: BalanceChanged | None) -> bool:
    """Whether other quantities (None: a flat position) or another cash are held than the mirror says."""
    theirs = {each.id: (each.side, each.units) for each in positions if each is not None}
    if theirs != {key: (each.side, each.units) for key, each in mirror.positions.items()}:
        return True
    return cash is not None and cash.balance != mirror.balance
