"""Reading an order as it was asked for: fields, types and which of them belong together.

Source: reference/alpaca.md §1.4. What the asset's class allows is asked in `entry_rules`, money and shares in `checks`.
Unreadable or missing fields are refused with 422/40010001.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.market.catalogue import OPTION, Asset, Catalogue
from bridge.simulator.alpaca.numbers import decimals_of, read_decimal
from bridge.simulator.alpaca.refusals import malformed, unprocessable

TIMES_IN_FORCE = ("day", "gtc", "opg", "cls", "ioc", "fok")
CLASSES = ("simple", "bracket", "oco", "oto", "mleg")
INTENTS = ("buy_to_open", "buy_to_close", "sell_to_open", "sell_to_close")
NEEDS = {
    "market": (),
    "limit": ("limit_price",),
    "stop": ("stop_price",),
    "stop_limit": ("limit_price", "stop_price"),
    "trailing_stop": (),
}
PRICES = ("limit_price", "stop_price", "trail_price", "trail_percent")
LONGEST_CLIENT_ID = 128


@dataclass(frozen=True, slots=True)
class Leg:
    """One leg of an mleg order."""

    asset: Asset
    ratio: Decimal
    side: str
    position_intent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An order as asked for; `asset` None and `legs` for mleg. `order_class` "" = simple."""

    asset: Asset | None
    side: str
    type: str
    time_in_force: str
    order_class: str
    client_order_id: str | None
    qty: Decimal | None
    notional: Decimal | None
    limit_price: Decimal | None
    stop_price: Decimal | None
    trail_price: Decimal | None
    trail_percent: Decimal | None
    extended_hours: bool
    position_intent: str
    take_profit: Decimal | None
    stop_loss: Decimal | None
    stop_loss_limit: Decimal | None
    legs: tuple[Leg, ...] = ()


def read_entry(body: Mapping[str, Any], catalogue: Catalogue) -> Entry:
    """The order a body of POST /v2/orders asks for. Raises ApiRefusal (422)."""
    order_class = _choice(body, "order_class", CLASSES, "simple")
    if order_class == "mleg":
        return _read_mleg(body, catalogue)
    return _read_single(body, _read_asset(body, catalogue), "" if order_class == "simple" else order_class)


def _read_single(body: Mapping[str, Any], asset: Asset, order_class: str) -> Entry:
    kind = _choice(body, "type", tuple(NEEDS), None)
    entry = _common(body, asset, kind, order_class)
    if order_class == "oco":
        entry = _with_oco_prices(entry)
    if (entry.qty is None) == (entry.notional is None):
        raise malformed(
            "qty or notional is required" if entry.qty is None else "only one of qty and notional is allowed"
        )
    for name in PRICES:
        given, needed = getattr(entry, name) is not None, name in NEEDS[kind]
        if needed and not given:
            raise malformed(f"{kind} orders require {name.replace('_', ' ')}")
        trails = kind == "trailing_stop" and name.startswith("trail")
        if given and not needed and not trails:
            raise unprocessable(f"{kind} orders must not have {name}")
    if kind == "trailing_stop":
        if (entry.trail_price is None) == (entry.trail_percent is None):
            raise malformed("trailing stop orders require either trail_price or trail_percent")
        if entry.trail_percent is not None and entry.trail_percent >= 100:
            raise unprocessable("trail_percent must be below 100")
    return entry


def _with_oco_prices(entry: Entry) -> Entry:
    """The parent of an oco is its take-profit, whose price may stand in either place."""
    price = entry.take_profit if entry.take_profit is not None else entry.limit_price
    return replace(entry, limit_price=price, take_profit=price)


def _common(body: Mapping[str, Any], asset: Asset | None, kind: str, order_class: str) -> Entry:
    profit, loss = _object(body, "take_profit"), _object(body, "stop_loss")
    client_order_id = body.get("client_order_id") or None
    if client_order_id is not None and (
        not isinstance(client_order_id, str) or len(client_order_id) > LONGEST_CLIENT_ID
    ):
        raise malformed(f"client_order_id must be a string of at most {LONGEST_CLIENT_ID} characters")
    return Entry(
        asset=asset,
        side=_choice(body, "side", ("buy", "sell"), "" if order_class == "mleg" else None),
        type=kind,
        time_in_force=_choice(body, "time_in_force", TIMES_IN_FORCE, None),
        order_class=order_class,
        client_order_id=client_order_id,
        qty=read_decimal(body, "qty"),
        notional=read_decimal(body, "notional"),
        limit_price=None if order_class == "mleg" else read_decimal(body, "limit_price"),
        stop_price=read_decimal(body, "stop_price"),
        trail_price=read_decimal(body, "trail_price"),
        trail_percent=read_decimal(body, "trail_percent"),
        extended_hours=read_bool(body, "extended_hours"),
        position_intent=_choice(body, "position_intent", INTENTS, ""),
        take_profit=read_decimal(profit, "limit_price"),
        stop_loss=read_decimal(loss, "stop_price"),
        stop_loss_limit=read_decimal(loss, "limit_price"),
    )


def _read_mleg(body: Mapping[str, Any], catalogue: Catalogue) -> Entry:
    kind = _choice(body, "type", ("market", "limit"), None)
    entry = _common(body, None, kind, "mleg")
    rows = body.get("legs")
    if not isinstance(rows, list) or not 2 <= len(rows) <= 4:
        raise malformed("mleg orders require 2 to 4 legs")
    legs = tuple(_read_leg(row, catalogue) for row in rows)
    if entry.qty is None or entry.qty != entry.qty.to_integral_value():
        raise malformed("qty must be a whole number")
    if entry.time_in_force != "day":
        raise unprocessable("invalid option time_in_force")
    if len({leg.asset.id for leg in legs}) != len(legs):
        raise unprocessable("legs must be of different symbols")
    if kind == "limit" and body.get("limit_price") in (None, ""):
        raise malformed("limit orders require limit price")
    return replace(entry, legs=legs, limit_price=read_net_price(body) if kind == "limit" else None)


def read_net_price(body: Mapping[str, Any]) -> Decimal | None:
    """The limit of an mleg order: positive for a debit, negative for a credit."""
    written = str(body.get("limit_price") or "")
    if not written:
        return None
    if Decimal(0) == _lenient(written):
        return Decimal(0)
    magnitude = read_decimal({"limit_price": written.removeprefix("-")}, "limit_price")
    if magnitude is not None and decimals_of(magnitude) > 2:
        raise unprocessable("invalid limit_price. price increment is limited to 2 decimal places")
    return -magnitude if magnitude is not None and written.startswith("-") else magnitude


def _lenient(written: str) -> Decimal | None:
    return Decimal(0) if written.strip("-0.") == "" else None


def _read_leg(row: Any, catalogue: Catalogue) -> Leg:
    if not isinstance(row, Mapping):
        raise malformed("legs must be objects")
    asset = _read_asset(row, catalogue)
    ratio = read_decimal(row, "ratio_qty")
    if asset.asset_class != OPTION:
        raise unprocessable("legs must be options")
    if ratio is None or ratio != ratio.to_integral_value():
        raise malformed("ratio_qty must be a whole number")
    side = _choice(row, "side", ("buy", "sell"), "")
    intent = _choice(row, "position_intent", INTENTS, "")
    side = side or intent.partition("_")[0]
    if not side or (intent and not intent.startswith(side)):
        raise malformed("legs require side or position_intent, and the same of both")
    return Leg(asset, ratio, side, intent or f"{side}_to_open")


def _read_asset(body: Mapping[str, Any], catalogue: Catalogue) -> Asset:
    symbol = body.get("symbol") or body.get("asset_id")
    if not isinstance(symbol, str):
        raise malformed("symbol is required")
    asset = catalogue.find(symbol)
    if asset is None:
        raise unprocessable(f'asset "{symbol}" not found')
    return asset


def _choice(body: Mapping[str, Any], name: str, allowed: tuple[str, ...], default: str | None) -> str:
    value = body.get(name)
    if value is None or value == "":
        if default is None:
            raise malformed(f"{name} is required")
        return default
    if value not in allowed:
        raise malformed(f"invalid {name}")
    return str(value)


def read_bool(body: Mapping[str, Any], name: str) -> bool:
    """A boolean of a request, false when absent."""
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    if value in ("true", "false"):
        return bool(value == "true")
    raise malformed(f"{name} must be a boolean")


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise malformed(f"{name} must be an object")
    return value
