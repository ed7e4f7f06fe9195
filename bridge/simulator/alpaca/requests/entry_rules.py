"""What an order must be like: types, times in force, decimals, sizes and the rules of complex orders.

Source: reference/alpaca.md §1.4. Needs nothing but the request and the asset; 422/42210000 for what it refuses.
"""

from __future__ import annotations

from decimal import Decimal

from bridge.simulator.alpaca.market.catalogue import CRYPTO, EQUITY, OPTION, Asset
from bridge.simulator.alpaca.numbers import decimals_of
from bridge.simulator.alpaca.refusals import forbidden, unprocessable
from bridge.simulator.alpaca.requests.entry import Entry

TYPES = {
    EQUITY: ("market", "limit", "stop", "stop_limit", "trailing_stop"),
    CRYPTO: ("market", "limit", "stop_limit"),
    OPTION: ("market", "limit"),
}
ALLOWED_TIMES = {
    EQUITY: ("day", "gtc", "opg", "cls", "ioc", "fok"),
    CRYPTO: ("gtc", "ioc"),
    OPTION: ("day",),
}
MINIMUM_CRYPTO_COST = Decimal(10)
MINIMUM_NOTIONAL = Decimal(1)
LEAST_DISTANCE = Decimal("0.01")


def check_entry(entry: Entry) -> None:
    """Every rule that the request alone can break. Raises ApiRefusal."""
    if entry.asset is not None:
        check_asset_rules(entry.asset, entry)
        if entry.order_class:
            _check_class(entry)


def check_price(asset: Asset, name: str, price: Decimal | None) -> None:
    """Two decimals from a dollar on, four below; crypto by its increment."""
    if price is None:
        return
    digits = asset.price_digits(price)
    if decimals_of(price) > digits:
        raise unprocessable(
            f"invalid {name} {price}. sub-penny increment does not fulfill minimum pricing criteria"
            if asset.asset_class != CRYPTO
            else f"invalid {name} {price}. price increment is limited to {digits} decimal places"
        )


def check_exits(side: str, base: Decimal | None, take_profit: Decimal | None, stop_loss: Decimal | None) -> None:
    """Exits lie on both sides of the base price and, the stop, at least a cent away. `side` is the entry's."""
    sign = 1 if side == "buy" else -1
    if take_profit is not None and stop_loss is not None and (take_profit - stop_loss) * sign <= 0:
        raise unprocessable("take_profit.limit_price must be beyond stop_loss.stop_price")
    if base is None:
        return
    if stop_loss is not None and (base - stop_loss) * sign < LEAST_DISTANCE:
        where = "<= base_price - 0.01" if sign > 0 else ">= base_price + 0.01"
        raise unprocessable(f"stop_loss.stop_price must be {where}")
    if take_profit is not None and (take_profit - base) * sign < LEAST_DISTANCE:
        where = ">= base_price + 0.01" if sign > 0 else "<= base_price - 0.01"
        raise unprocessable(f"take_profit.limit_price must be {where}")


def check_minimum(asset: Asset, cost: Decimal) -> None:
    """Crypto orders must be worth ten dollars."""
    if asset.asset_class == CRYPTO and cost < MINIMUM_CRYPTO_COST:
        raise forbidden(f"cost basis must be >= minimal amount of order {MINIMUM_CRYPTO_COST}")


def check_asset_rules(asset: Asset, entry: Entry) -> None:
    """Types, times in force, decimals and sizes that the asset's class allows."""
    kind = asset.asset_class
    if entry.type not in TYPES[kind]:
        raise unprocessable(f"invalid order type for {_plain(kind)} order")
    if entry.time_in_force not in ALLOWED_TIMES[kind]:
        raise unprocessable(f"invalid {_plain(kind)} time_in_force")
    for name in ("limit_price", "stop_price", "trail_price", "take_profit", "stop_loss", "stop_loss_limit"):
        check_price(asset, name, getattr(entry, name))
    if entry.extended_hours and (entry.type != "limit" or entry.time_in_force not in ("day", "gtc")):
        raise unprocessable("extended hours order must be DAY or GTC limit orders")
    if entry.type == "trailing_stop" and entry.time_in_force not in ("day", "gtc"):
        raise unprocessable("trailing stop orders must be DAY or GTC")
    if entry.time_in_force in ("opg", "cls") and entry.type not in ("market", "limit"):
        raise unprocessable("opg and cls orders must be market or limit orders")
    if entry.notional is not None:
        _check_notional(asset, entry)
    elif entry.qty is not None:
        _check_qty(asset, entry, entry.qty)


def _check_notional(asset: Asset, entry: Entry) -> None:
    allowed = ("gtc", "ioc") if asset.asset_class == CRYPTO else ("day",)
    if asset.asset_class == OPTION or not asset.fractionable:
        raise unprocessable(f"asset {asset.symbol} is not fractionable")
    if entry.type != "market" or entry.time_in_force not in allowed or entry.order_class:
        raise unprocessable("notional orders must be simple market orders with time_in_force day")
    if entry.notional is not None and (entry.notional < MINIMUM_NOTIONAL or decimals_of(entry.notional) > 2):
        raise unprocessable("notional amount must be >= 1.00 and limited to 2 decimal places")


def _check_qty(asset: Asset, entry: Entry, qty: Decimal) -> None:
    if qty == qty.to_integral_value():
        return
    if asset.asset_class == CRYPTO:
        return
    if not asset.fractionable:
        raise unprocessable(f"asset {asset.symbol} is not fractionable")
    if entry.time_in_force != "day":
        raise unprocessable("fractional orders must be DAY orders")
    if entry.order_class or entry.type == "trailing_stop":
        raise unprocessable("fractional orders must be simple orders")


def _check_class(entry: Entry) -> None:
    """Bracket, oco and oto."""
    both = entry.take_profit is not None and entry.stop_loss is not None
    if entry.asset is None or entry.asset.asset_class != EQUITY:
        raise unprocessable(f"{entry.order_class} orders are not supported for this asset class")
    if entry.time_in_force not in ("day", "gtc"):
        raise unprocessable(f"{entry.order_class} orders must be DAY or GTC")
    if entry.extended_hours:
        raise unprocessable(f"{entry.order_class} orders are not allowed in extended hours")
    if entry.type == "trailing_stop":
        raise unprocessable("trailing stop orders must be simple orders")
    if entry.order_class == "bracket" and not both:
        raise unprocessable("bracket orders require take_profit.limit_price and stop_loss.stop_price")
    if entry.order_class == "oto" and (entry.take_profit is None) == (entry.stop_loss is None):
        raise unprocessable("oto orders require either take_profit or stop_loss")
    if entry.order_class == "oco":
        if entry.type != "limit" or not both:
            raise unprocessable("oco orders must be limit orders with take_profit and stop_loss")
        check_exits("sell" if entry.side == "buy" else "buy", None, entry.take_profit, entry.stop_loss)
        return
    base = entry.limit_price if entry.limit_price is not None else entry.stop_price
    check_exits(entry.side, base, entry.take_profit, entry.stop_loss)


def _plain(asset_class: str) -> str:
    return asset_class.removeprefix("us_")
