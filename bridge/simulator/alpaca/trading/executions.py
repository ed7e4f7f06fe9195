"""Booking an execution: the order, the ledger, the activity and the update, all with one id and one time.

Fees of crypto trades are taken in what is received and leave filled_qty gross (reference/alpaca.md §8.1).
Invariant: every execution is one FILL activity and part of exactly one trade update.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.activities import fill_activity, money_activity
from bridge.simulator.alpaca.accounts.orders import PENDING, Order, Status
from bridge.simulator.alpaca.market.catalogue import CRYPTO, Asset
from bridge.simulator.alpaca.numbers import EXACT, NANO, ZERO, text
from bridge.simulator.alpaca.trading import groups
from bridge.simulator.alpaca.trading.desk import Desk


@dataclass(frozen=True, slots=True)
class Execution:
    """What was booked."""

    id: str
    at_ns: int
    qty: Decimal
    price: Decimal


def book(desk: Desk, account: Account, order: Order, qty: Decimal, price: Decimal) -> None:
    """Book a fill that the market reported, tell it, and let the order's group follow."""
    done = settle(desk, account, order, qty, price)
    asset = order.asset
    if asset is None:
        raise ValueError("orders of many legs are settled leg by leg")
    complete = order.remaining == 0
    if complete:
        order.move(Status.FILLED, done.at_ns)
        order.engine_id = None
        del account.open_orders[order.id]
    else:
        order.move(order.status if order.status in PENDING else Status.PARTIALLY_FILLED, done.at_ns)
        desk.rests[asset.id] = asset
    desk.announce(
        account,
        order,
        "fill" if complete else "partial_fill",
        done.at_ns,
        execution_id=done.id,
        price=text(price),
        qty=text(qty),
        position_qty=text(account.ledger.qty(asset)),
    )
    groups.after_fill(desk, account, order)


def settle(desk: Desk, account: Account, order: Order, qty: Decimal, price: Decimal) -> Execution:
    """Order quantities, ledger, fee and activities of one execution; the order's state is the caller's."""
    asset = order.asset
    if asset is None:
        raise ValueError("orders of many legs are settled leg by leg")
    done = Execution(desk.stamps.new_uuid(), desk.stamp(), qty, price)
    opens_short = order.side == "sell" and account.ledger.qty(asset) <= 0
    account.ledger.fill(asset, qty * order.sign, price)
    order.filled_qty += qty
    order.filled_value += EXACT.multiply(qty, price)
    order.updated_ns = done.at_ns
    account.activities.append(fill_activity(order, done.id, done.at_ns, qty, price, opens_short=opens_short))
    if asset.asset_class == CRYPTO:
        _charge_crypto(desk, account, asset, order.side, done)
    return done


def _charge_crypto(desk: Desk, account: Account, asset: Asset, side: str, done: Execution) -> None:
    if side == "buy":
        fee = EXACT.multiply(done.qty, desk.crypto_fee).quantize(NANO, context=EXACT)
        if fee:
            account.ledger.charge_asset(asset, fee)
            _file_fee(desk, account, asset, ZERO, -fee, done.price)
        return
    value = EXACT.multiply(done.qty, done.price)
    charged = EXACT.multiply(value, desk.crypto_fee).quantize(NANO, context=EXACT)
    account.ledger.cash -= charged
    _file_fee(desk, account, asset, -charged, None, None)


def _file_fee(
    desk: Desk, account: Account, asset: Asset, amount: Decimal, qty: Decimal | None, price: Decimal | None
) -> None:
    account.activities.append(
        money_activity(
            "CFEE",
            desk.stamps.new_uuid(),
            desk.stamp(),
            amount,
            symbol=asset.symbol,
            qty=qty,
            price=price,
            description="Crypto trading fee",
        )
    )
