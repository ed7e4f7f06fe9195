"""Orders of two to four option legs: they trade whole or not at all, at a net price.

Source: reference/alpaca.md §1.3, §1.4, §2.2. The net price is the sum of ratio x price, bought legs positive; a limit
is the most that may be paid (negative: the least that must be received). One update tells the fill, each leg is an
execution of its own. Legs never leave the parent: they have its state and are listed under it only.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.orders import Order, Status
from bridge.simulator.alpaca.numbers import ZERO, text
from bridge.simulator.alpaca.trading import executions
from bridge.simulator.alpaca.trading.desk import Desk


def net_price(desk: Desk, account: Account, order: Order) -> Decimal:
    """What one unit of the order costs now, per share; negative when it brings money."""
    total = ZERO
    for leg_id in order.legs:
        leg = account.orders[leg_id]
        if leg.asset is not None and leg.ratio_qty is not None:
            total += leg.sign * leg.ratio_qty * desk.price_for(leg.asset, leg.side)
    return total


def attempt(desk: Desk, account: Account, order: Order) -> None:
    """Trade the order if its net price allows; leave it waiting otherwise."""
    if not desk.may_work(order):
        return
    price = net_price(desk, account, order)
    if order.limit_price is not None and price > order.limit_price:
        return
    if any(_is_limited(desk, account.orders[leg]) for leg in order.legs):
        return  # only so much is on offer: the whole of it may not be had
    del desk.combos[order.id]
    rows = [_trade_leg(desk, account, account.orders[leg]) for leg in order.legs]
    units = order.remaining
    order.filled_qty += units
    order.filled_value += units * price
    at_ns = desk.stamp()
    order.move(Status.FILLED, at_ns)
    account.open_orders.pop(order.id)
    held = [account.orders[leg].asset for leg in order.legs]
    desk.announce(
        account,
        order,
        "fill",
        at_ns,
        execution_id=rows[0]["execution_id"],
        price=text(price),
        qty=text(units),
        position_qtys={asset.position_symbol: text(account.ledger.qty(asset)) for asset in held if asset is not None},
        legs=rows,
    )


def _trade_leg(desk: Desk, account: Account, leg: Order) -> dict[str, Any]:
    units, price = leg.remaining, desk.trade_whole(account, leg)
    done = executions.settle(desk, account, leg, units, price)
    leg.move(Status.FILLED, done.at_ns)
    account.open_orders.pop(leg.id)
    return {
        "order_id": leg.id,
        "execution_id": done.id,
        "symbol": "" if leg.asset is None else leg.asset.symbol,
        "side": leg.side,
        "qty": text(units),
        "price": text(price),
    }


def _is_limited(desk: Desk, leg: Order) -> bool:
    offer = desk.prices.offers["" if leg.asset is None else leg.asset.id]
    return (offer.ask_size if leg.side == "buy" else offer.bid_size) is not None
