"""Assets, option contracts and the calendar, as GET requests filter them. Source: reference/alpaca.md §1.2, §1.3."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from bridge.simulator.alpaca.market.calendar import days_between
from bridge.simulator.alpaca.market.catalogue import Asset, Catalogue
from bridge.simulator.alpaca.market.prices import Prices
from bridge.simulator.alpaca.refusals import malformed, missing
from bridge.simulator.alpaca.stamps import MS_NS, eastern

LONGEST_CALENDAR = timedelta(days=3660)
DEFAULT_PAGE, LARGEST_PAGE = 100, 10_000


def assets(catalogue: Catalogue, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """GET /v2/assets; options are listed as contracts only."""
    wanted_class, exchange = query.get("asset_class") or query.get("class"), query.get("exchange")
    attributes = {each for each in query.get("attributes", "").split(",") if each}
    if (query.get("status") or "active") not in ("active", "all"):
        return []
    return [
        asset.document()
        for asset in catalogue.assets
        if asset.contract is None
        and (not wanted_class or asset.asset_class == wanted_class)
        and (not exchange or asset.exchange == exchange)
        and (not attributes or attributes & set(asset.attributes))
    ]


def asset(catalogue: Catalogue, symbol_or_id: str) -> dict[str, Any]:
    """GET /v2/assets/{…}. Raises ApiRefusal (404)."""
    return _found(catalogue, symbol_or_id).document()


def option_contracts(catalogue: Catalogue, prices: Prices, query: Mapping[str, str]) -> dict[str, Any]:
    """GET /v2/options/contracts, paged; the token is the place in the list."""
    underlyings = {each for each in query.get("underlying_symbols", "").split(",") if each}
    size = _number(query, "limit", DEFAULT_PAGE, LARGEST_PAGE)
    start = _number(query, "page_token", 0, 10**9)
    rows = [
        each.contract_document(prices.last_of(each))
        for each in catalogue.assets
        if each.contract is not None
        and (not underlyings or each.contract.underlying in underlyings)
        and query.get("type") in (None, "", each.contract.kind)
        and query.get("root_symbol") in (None, "", each.contract.underlying)
    ]
    end = start + size
    return {"option_contracts": rows[start:end], "next_page_token": str(end) if end < len(rows) else None}


def option_contract(catalogue: Catalogue, prices: Prices, symbol_or_id: str) -> dict[str, Any]:
    """GET /v2/options/contracts/{…}. Raises ApiRefusal (404)."""
    found = _found(catalogue, symbol_or_id)
    if found.contract is None:
        raise missing(f"option contract not found for {symbol_or_id}")
    return found.contract_document(prices.last_of(found))


def calendar(query: Mapping[str, str], now_ms: int) -> list[dict[str, Any]]:
    """GET /v2/calendar: `start` to `end`; without them a year around today. Raises ApiRefusal (422)."""
    today = eastern(now_ms * MS_NS).date()
    start = _day(query, "start") or today - timedelta(days=183)
    end = _day(query, "end") or max(start, today) + timedelta(days=183)
    if end < start or end - start > LONGEST_CALENDAR:
        raise malformed("end must be after start, by ten years at most")
    return days_between(start, end)


def _found(catalogue: Catalogue, symbol_or_id: str) -> Asset:
    found = catalogue.find(symbol_or_id)
    if found is None:
        raise missing(f"asset not found for {symbol_or_id}")
    return found


def _day(query: Mapping[str, str], name: str) -> date | None:
    written = query.get(name)
    if not written:
        return None
    try:
        return date.fromisoformat(written[:10])
    except ValueError as cause:
        raise malformed(f"{name} is not a date") from cause


def _number(query: Mapping[str, str], name: str, default: int, largest: int) -> int:
    written = query.get(name) or str(default)
    if not written.isdecimal() or int(written) > largest:
        raise malformed(f"invalid {name}")
    return int(written)
