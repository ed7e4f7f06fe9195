"""What GET requests show of an account: the account itself, its positions and its orders. Reads only.

Source: reference/alpaca.md §1.2, §1.3 (without the fields that went in July 2026). Works on any copy of an account, so
that an older state can be shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.account import Account, Configurations
from bridge.simulator.alpaca.catalogue import Asset, Catalogue
from bridge.simulator.alpaca.checks import held_for_orders
from bridge.simulator.alpaca.desk import Desk
from bridge.simulator.alpaca.entry import read_bool
from bridge.simulator.alpaca.ledger import Holding
from bridge.simulator.alpaca.numbers import ZERO, divided, text
from bridge.simulator.alpaca.orders import Order
from bridge.simulator.alpaca.prices import Prices
from bridge.simulator.alpaca.refusals import malformed, missing
from bridge.simulator.alpaca.stamps import micro_text, read_time

LARGEST_LIST, DEFAULT_LIST = 500, 50
CHOICES: dict[str, tuple[Any, ...]] = {
    "max_margin_multiplier": ("1", "2", "4"),
    "trade_confirm_email": ("all", "none"),
    "max_options_trading_level": (None, 0, 1, 2, 3),
}


def account_document(desk: Desk, account: Account) -> dict[str, Any]:
    """Account of reference §1.3."""
    now = desk.figures(account)
    money = {
        "cash": now.cash,
        "equity": now.equity,
        "last_equity": account.last_equity,
        "portfolio_value": now.equity,
        "buying_power": now.buying_power,
        "regt_buying_power": now.regt_buying_power,
        "non_marginable_buying_power": now.non_marginable,
        "options_buying_power": now.non_marginable,
        "effective_buying_power": now.buying_power,
        "long_market_value": now.long_value,
        "short_market_value": now.short_value,
        "position_market_value": now.long_value - now.short_value,
        "initial_margin": now.initial,
        "maintenance_margin": now.maintenance,
        "last_maintenance_margin": account.last_maintenance,
        "sma": max(ZERO, now.equity - now.initial),
        "accrued_fees": ZERO,
        "pending_reg_taf_fees": ZERO,
        "pending_transfer_in": ZERO,
        "pending_transfer_out": ZERO,
        "intraday_adjustments": ZERO,
    }
    return {
        "id": account.id,
        "account_number": account.number,
        "status": "ACTIVE",
        "crypto_status": "ACTIVE",
        "currency": account.currency,
        **{name: text(amount) for name, amount in money.items()},
        "multiplier": str(now.multiplier),
        "balance_asof": account.last_balance_date,
        "created_at": micro_text(account.created_ns),
        "shorting_enabled": now.multiplier > 1 and not account.configurations.no_shorting,
        "trading_blocked": False,
        "transfers_blocked": False,
        "account_blocked": False,
        "trade_suspended_by_user": account.configurations.suspend_trade,
        "options_approved_level": account.options_level,
        "options_trading_level": account.options_level,
    }


def configure(account: Account, body: Mapping[str, Any]) -> dict[str, Any]:
    """PATCH /v2/account/configurations: any subset. Raises ApiRefusal (422); nothing changes then.

    A null is no wish: `alpaca-py` sends its whole model, retired fields included.
    """
    wanted = asdict(account.configurations)
    for name, value in body.items():
        if value is None:
            continue
        if name not in wanted:
            raise malformed(f"unknown field {name}")
        wanted[name] = _setting(body, name, is_flag=isinstance(wanted[name], bool))
    account.configurations = Configurations(**wanted)
    return asdict(account.configurations)


def _setting(body: Mapping[str, Any], name: str, *, is_flag: bool) -> Any:
    if is_flag:
        return read_bool(body, name)
    value = body[name]
    written = [str(each) for each in CHOICES[name]]
    if str(value) not in written:
        raise malformed(f"invalid {name}")
    return CHOICES[name][written.index(str(value))]


def positions(account: Account, prices: Prices) -> list[dict[str, Any]]:
    """GET /v2/positions."""
    return [position_document(account, held, prices) for held in account.ledger.holdings.values()]


def position_of(account: Account, catalogue: Catalogue, symbol_or_id: str) -> Holding:
    """The position a path names. Raises ApiRefusal (404)."""
    asset = catalogue.find(symbol_or_id)
    held = None if asset is None else account.ledger.holdings.get(asset.id)
    if held is None:
        raise missing("position does not exist")
    return held


def position_document(account: Account, held: Holding, prices: Prices) -> dict[str, Any]:
    """Position of reference §1.3; a short has a negative qty, value and cost."""
    asset = held.asset
    last, before = prices.last_of(asset), prices.last_day[asset.symbol]
    value = held.value(last)
    gain, today = value - held.cost, value - held.day_cost
    available = abs(held.qty) - held_for_orders(account, asset)
    return {
        "asset_id": asset.id,
        "symbol": asset.position_symbol,
        "exchange": asset.exchange,
        "asset_class": asset.asset_class,
        "asset_marginable": asset.marginable,
        "qty": text(held.qty),
        "qty_available": text(available.copy_sign(held.qty)),
        "avg_entry_price": text(held.avg_entry_price),
        "side": held.side,
        "market_value": text(value),
        "cost_basis": text(held.cost),
        "unrealized_pl": text(gain),
        "unrealized_plpc": _share(gain, held.cost),
        "unrealized_intraday_pl": text(today),
        "unrealized_intraday_plpc": _share(today, held.day_cost),
        "current_price": text(last),
        "lastday_price": text(before),
        "change_today": text(divided(last - before, before)),
    }


def orders(desk: Desk, account: Account, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """GET /v2/orders. With `nested` an exit is shown in its parent when that is in the answer, else by itself."""
    nested = query.get("nested", "false").lower() == "true"
    rows = _select(desk.catalogue, account, query)
    if nested:
        shown = {leg for order in rows for leg in order.legs}
        rows = [order for order in rows if order.id not in shown]
    return [desk.document(account, order, nested=nested) for order in rows[: _limit(query)]]


def _select(catalogue: Catalogue, account: Account, query: Mapping[str, str]) -> list[Order]:
    status = query.get("status") or "open"
    if status not in ("open", "closed", "all"):
        raise malformed("status must be open, closed or all")
    direction = query.get("direction") or "desc"
    if direction not in ("asc", "desc"):
        raise malformed("direction must be asc or desc")
    after, until = _moment(query, "after"), _moment(query, "until")
    later_than, earlier_than = _cursor(account, query, "after_order_id"), _cursor(account, query, "before_order_id")
    if (later_than or earlier_than) and (after or until or (later_than and earlier_than)):
        raise malformed("before_order_id, after_order_id and after/until exclude each other")
    symbols = {asset for each in _words(query, "symbols") if (asset := catalogue.find(each)) is not None}
    classes, side = _words(query, "asset_class"), query.get("side")
    pool = account.open_orders if status == "open" else account.orders
    found = [
        order
        for order in pool.values()
        if order.ratio_qty is None
        and (status != "closed" or order.is_final)
        and (after is None or order.created_ns > after)
        and (until is None or order.created_ns < until)
        and (later_than is None or order.created_ns > later_than)
        and (earlier_than is None or order.created_ns < earlier_than)
        and (not query.get("symbols") or any(asset in symbols for asset in _assets(account, order)))
        and (not side or order.side == side)
        and (not classes or any(asset.asset_class in classes for asset in _assets(account, order)))
    ]
    return found if direction == "asc" else found[::-1]


def _assets(account: Account, order: Order) -> list[Asset]:
    every = [order, *(account.orders[leg] for leg in order.legs)]
    return [each.asset for each in every if each.asset is not None]


def _limit(query: Mapping[str, str]) -> int:
    written = query.get("limit") or str(DEFAULT_LIST)
    if not written.isdecimal() or not 1 <= int(written) <= LARGEST_LIST:
        raise malformed(f"limit must be 1 to {LARGEST_LIST}")
    return int(written)


def _moment(query: Mapping[str, str], name: str) -> int | None:
    return read_time(query[name], name) if query.get(name) else None


def _cursor(account: Account, query: Mapping[str, str], name: str) -> int | None:
    if not query.get(name):
        return None
    order = account.orders.get(query[name])
    if order is None:
        raise malformed(f"{name} is not a known order")
    return order.created_ns


def _words(query: Mapping[str, str], name: str) -> list[str]:
    return [word.strip() for word in query.get(name, "").split(",") if word.strip()]


def _share(gain: Decimal, of: Decimal) -> str:
    return text(divided(gain, abs(of))) if of else "0"
