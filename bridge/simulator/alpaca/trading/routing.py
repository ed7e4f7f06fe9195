"""How an order of the simulated Alpaca is put to the engine. Pure: an order and a price in, an engine request out.

Alpaca's own notions stop here: times in force end at the desk, so everything but IOC and FOK rests in the engine until
it is taken out; a stop that the market has passed already goes in as what it becomes when it is triggered.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal

from bridge.simulator.alpaca.accounts.orders import Order
from bridge.simulator.alpaca.market.catalogue import Asset
from bridge.simulator.alpaca.numbers import EXACT, NANO
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import OrderRequest

AT_ONCE = {"ioc": TimeInForce.IOC, "fok": TimeInForce.FOK}


def target_units(order: Order, price: Decimal, held: Decimal) -> Decimal:
    """Units to trade: the quantity, or what a notional amounts to at this price; a sale never more than is held."""
    if order.notional is None:
        if order.qty is None:
            raise ValueError(f"order {order.id} has neither qty nor notional")
        return order.qty
    units = EXACT.divide(order.notional, price).quantize(NANO, rounding=ROUND_DOWN, context=EXACT)
    return min(units, held) if order.side == "sell" else units


def engine_request(order: Order, asset: Asset, price: Decimal) -> OrderRequest:
    """The engine's order for what is left of this one; `price` is what it would meet now."""
    kind, stop = OrderType(order.type), order.stop_price
    force = AT_ONCE.get(order.time_in_force, TimeInForce.GTC)
    if order.time_in_force in ("opg", "cls") and kind is OrderType.LIMIT:
        force = TimeInForce.IOC  # at the auction's price or not at all
    if kind in (OrderType.STOP, OrderType.STOP_LIMIT) and (order.triggered or _passed(order, price)):
        order.triggered = True
        kind, stop = (OrderType.MARKET if kind is OrderType.STOP else OrderType.LIMIT), None
    if kind is OrderType.TRAILING_STOP:
        stop = None
    return OrderRequest(
        instrument_id=asset.id,
        side=Side(order.side),
        type=kind,
        units=order.remaining,
        time_in_force=force,
        limit_price=order.limit_price if kind in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None,
        stop_price=stop,
        trail_amount=order.trail_price if kind is OrderType.TRAILING_STOP else None,
        trail_percent=order.trail_percent if kind is OrderType.TRAILING_STOP else None,
        trail_extreme=order.hwm if kind is OrderType.TRAILING_STOP else None,
        client_order_id=order.id,
    )


def _passed(order: Order, price: Decimal) -> bool:
    stop = order.stop_price
    return stop is not None and (price >= stop if order.side == "buy" else price <= stop)
