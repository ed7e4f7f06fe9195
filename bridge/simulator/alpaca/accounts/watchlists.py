"""Watchlists of one account: named lists of assets. Plain state and decisions, no I/O.

Source: reference/alpaca.md §1.2. Names are unique within an account; a list keeps its symbols in the order added.
Bounded: an account holds at most 200 lists of at most 500 symbols.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.simulator.alpaca.refusals import ApiRefusal, malformed, missing, unprocessable

MAX_LISTS = 200
MAX_SYMBOLS = 500
MAX_NAME = 64
AssetOf = Callable[[str], dict[str, Any]]  # symbol or asset id -> asset document; raises ApiRefusal 404


@dataclass(slots=True)
class Watchlist:
    """One list. Times are RFC 3339 as sent."""

    id: str
    name: str
    created_at: str
    updated_at: str
    symbols: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Watchlists:
    """The lists of one account."""

    account_id: str
    asset_of: AssetOf
    _lists: dict[str, Watchlist] = field(default_factory=dict)
    _made: int = 0

    def documents(self) -> list[dict[str, Any]]:
        """Every list, without its assets."""
        return [self._head(each) for each in self._lists.values()]

    def document(self, found: Watchlist) -> dict[str, Any]:
        """A list with its assets."""
        return {**self._head(found), "assets": [self.asset_of(symbol) for symbol in found.symbols]}

    def by_id(self, list_id: str) -> Watchlist:
        """Raises ApiRefusal 404."""
        if list_id not in self._lists:
            raise missing("watchlist not found")
        return self._lists[list_id]

    def by_name(self, name: str | None) -> Watchlist:
        """Raises ApiRefusal 404, or 422 without a name."""
        if not name:
            raise malformed("name is required")
        for each in self._lists.values():
            if each.name == name:
                return each
        raise missing("watchlist not found")

    def create(self, body: Mapping[str, Any], now: str) -> Watchlist:
        """A new list. Raises ApiRefusal 422 for a name that is missing, too long or taken, and for unknown symbols."""
        name, symbols = self._name(body.get("name"), None), self._symbols(body.get("symbols"))
        if len(self._lists) >= MAX_LISTS:
            raise unprocessable("too many watchlists")
        self._made += 1
        list_id = str(uuid.uuid5(uuid.UUID(self.account_id), f"watchlist {self._made}"))
        self._lists[list_id] = Watchlist(list_id, name, now, now, symbols)
        return self._lists[list_id]

    def update(self, found: Watchlist, body: Mapping[str, Any], now: str) -> Watchlist:
        """Replace name and symbols, where given."""
        name = found.name if body.get("name") is None else self._name(body["name"], found)
        symbols = found.symbols if body.get("symbols") is None else self._symbols(body["symbols"])
        found.name, found.symbols, found.updated_at = name, symbols, now
        return found

    def add(self, found: Watchlist, body: Mapping[str, Any], now: str) -> Watchlist:
        """Append one symbol. Raises ApiRefusal 422 when it is there already or unknown."""
        (symbol,) = self._symbols([body.get("symbol")])
        if symbol in found.symbols:
            raise malformed("duplicate symbol")
        if len(found.symbols) >= MAX_SYMBOLS:
            raise unprocessable("too many symbols")
        found.symbols.append(symbol)
        found.updated_at = now
        return found

    def remove(self, found: Watchlist, symbol: str, now: str) -> Watchlist:
        """Take one symbol out. Raises ApiRefusal 404 when it is not in the list."""
        if symbol not in found.symbols:
            raise missing("symbol not found in watchlist")
        found.symbols.remove(symbol)
        found.updated_at = now
        return found

    def delete(self, found: Watchlist) -> None:
        del self._lists[found.id]

    def _head(self, found: Watchlist) -> dict[str, Any]:
        return {
            "id": found.id,
            "account_id": self.account_id,
            "created_at": found.created_at,
            "updated_at": found.updated_at,
            "name": found.name,
        }

    def _name(self, name: Any, renamed: Watchlist | None) -> str:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise malformed(f"name must be 1 to {MAX_NAME} characters")
        if any(each.name == name for each in self._lists.values() if each is not renamed):
            raise malformed("watchlist name must be unique")
        return name

    def _symbols(self, symbols: Any) -> list[str]:
        if symbols is None:
            return []
        if not isinstance(symbols, list) or len(symbols) > MAX_SYMBOLS:
            raise malformed(f"symbols must be a list of at most {MAX_SYMBOLS}")
        kept: list[str] = []
        for symbol in symbols:
            name = self._listed(symbol)
            if name not in kept:
                kept.append(name)
        return kept

    def _listed(self, symbol: Any) -> str:
        """The asset's own symbol."""
        if not isinstance(symbol, str):
            raise malformed("symbol must be a string")
        try:
            return str(self.asset_of(symbol)["symbol"])
        except ApiRefusal as cause:
            raise unprocessable(f"asset not found for {symbol[:40]}") from cause
