"""What an account is worth and what it may still buy, by the rules after June 2026.

Source: reference/alpaca.md §8.3. Simple rules: stocks on margin need the larger of 50 % and their own requirement to be
bought, their own requirement (30 % by default) to be kept; crypto, options and stocks nobody lends on are fully paid.
Open orders that may open a position reserve money until they are filled. Below 2,000 USD of equity there is no margin
and no shorting.
Pure: prices come in as a function of the asset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.ledger import Holding
from bridge.simulator.alpaca.accounts.orders import Order
from bridge.simulator.alpaca.market.catalogue import Asset
from bridge.simulator.alpaca.numbers import ZERO, cents

LastOf = Callable[[Asset], Decimal]
MARGIN_FLOOR = Decimal(2_000)
REGULATION_T = 50
HUNDRED = Decimal(100)
HALF = Decimal("0.5")
ONE, TWO, FOUR = Decimal(1), Decimal(2), Decimal(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """An account's figures at given prices; USD. `exposure`: value on margin, fully paid things counted four times."""

    cash: Decimal
    equity: Decimal
    long_value: Decimal
    short_value: Decimal
    initial: Decimal
    maintenance: Decimal
    multiplier: int
    exposure: Decimal
    regt_buying_power: Decimal
    buying_power: Decimal
    non_marginable: Decimal


def figures(account: Account, last: LastOf) -> Figures:
    """Value everything; equity and margins are rounded half-even to cents, cash stays exact."""
    held = [(each, each.value(last(each.asset))) for each in account.ledger.holdings.values()]
    long_value = sum((value for _, value in held if value > 0), ZERO)
    short_value = sum((value for _, value in held if value < 0), ZERO)
    cash = account.ledger.cash
    equity = cents(cash + long_value + short_value)
    allowed = int(account.configurations.max_margin_multiplier)
    multiplier = allowed if equity >= MARGIN_FLOOR else 1
    initial = cents(sum((abs(value) * initial_rate(each.asset, each.side, multiplier) for each, value in held), ZERO))
    maintenance = cents(sum((abs(value) * maintenance_rate(each) for each, value in held), ZERO))
    exposure = sum((abs(value) * (FOUR if each.asset.fully_paid else ONE) for each, value in held), ZERO)
    reserved = [(each.asset, amount) for each, amount in reservations(account)]
    weighted = sum((amount * (ONE if _paid_in_full(asset) else HALF) for asset, amount in reserved), ZERO)
    whole = sum((amount for _, amount in reserved), ZERO)
    regt = max(ZERO, equity - initial - (weighted if multiplier > 1 else whole)) * (TWO if multiplier > 1 else ONE)
    free_cash = max(ZERO, min(cash, equity - initial) - (weighted if multiplier > 1 else whole))
    match multiplier:
        case 4:
            opened = max(ZERO, exposure - account.last_exposure)
            power = FOUR * (account.last_equity - account.last_maintenance) - opened - _in_exposure(reserved)
        case 2:
            power = regt
        case _:
            power = cash - whole
    return Figures(
        cash=cash,
        equity=equity,
        long_value=long_value,
        short_value=short_value,
        initial=initial,
        maintenance=maintenance,
        multiplier=multiplier,
        exposure=exposure,
        regt_buying_power=cents(regt),
        buying_power=cents(max(ZERO, power)),
        non_marginable=cents(free_cash),
    )


def initial_rate(asset: Asset, side: str, multiplier: int) -> Decimal:
    """Share of a value that must be the account's own to open it."""
    if asset.fully_paid or multiplier == 1:
        return ONE
    return Decimal(max(REGULATION_T, asset.margin_long if side == "long" else asset.margin_short)) / HUNDRED


def maintenance_rate(held: Holding) -> Decimal:
    """Share of a value that must stay the account's own."""
    asset = held.asset
    return Decimal(asset.margin_long if held.side == "long" else asset.margin_short) / HUNDRED


def reservations(account: Account) -> list[tuple[Order, Decimal]]:
    """Money kept back by open orders that may open a position. Of an order and its replacement the larger counts."""
    kept: list[tuple[Order, Decimal]] = []
    for order in account.open_orders.values():
        if not order.opens or order.role in ("take_profit", "stop_loss") or order.ratio_qty is not None:
            continue
        if account.waits_to_replace(order):
            continue  # counted with the order it replaces
        amount = reservation(order)
        newer = account.open_orders.get(order.replacement or "")
        if newer is not None:
            amount = max(amount, reservation(newer))
        kept.append((order, amount))
    return kept


def reservation(order: Order) -> Decimal:
    """What one order keeps back now."""
    if order.notional is not None:
        return max(ZERO, order.notional - order.filled_value)
    return order.remaining * order.reserved


def reserve_price(order_type: str, side: str, limit: Decimal | None, stop: Decimal | None, ask: Decimal) -> Decimal:
    """Price per unit an opening order is taken to cost: its limit or stop, else a collar above the ask."""
    if side == "sell":
        return max(limit or ZERO, ask * Decimal("1.03"))
    if limit is not None:
        return limit
    if order_type == "stop" and stop is not None:
        return stop
    return ask * (Decimal("1.025") if ask >= 50 else Decimal("1.04"))


def _in_exposure(reserved: list[tuple[Asset | None, Decimal]]) -> Decimal:
    return sum((amount * (FOUR if _paid_in_full(asset) else ONE) for asset, amount in reserved), ZERO)


def _paid_in_full(asset: Asset | None) -> bool:
    """Orders of many legs are options."""
    return asset is None or asset.fully_paid
