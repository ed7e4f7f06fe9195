"""Whether an account may place an order now: its shares, its money, its other orders.

Source: reference/alpaca.md §1.4, §1.6 (codes and extra keys), §8.3. Asks only, changes nothing; refusals are raised.
Invariant it keeps: closing orders never add up to more than the position, and no two opening orders face each other,
so that no order can turn a position round.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.margin import MARGIN_FLOOR, reserve_price
from bridge.simulator.alpaca.market.catalogue import CRYPTO, EQUITY, OPTION, Asset
from bridge.simulator.alpaca.numbers import ZERO, text
from bridge.simulator.alpaca.refusals import forbidden, malformed, unprocessable
from bridge.simulator.alpaca.requests.entry import Entry, Leg
from bridge.simulator.alpaca.requests.entry_rules import check_exits, check_minimum
from bridge.simulator.alpaca.trading.desk import Desk


@dataclass(frozen=True, slots=True)
class Verdict:
    """Yes: whether the order may open a position, its intent, and what it reserves per unit (or as a whole)."""

    opens: bool
    position_intent: str
    reserved: Decimal


def check_client_id(account: Account, client_order_id: str | None) -> None:
    """An id is good once, for ever (reference §1.7)."""
    if client_order_id is not None and client_order_id in account.by_client_id:
        raise malformed("client_order_id must be unique")


def check_order(desk: Desk, account: Account, asset: Asset, entry: Entry) -> Verdict:
    """Everything about a new order (or one that replaces another) of one asset."""
    held = account.ledger.qty(asset)
    sign = 1 if entry.side == "buy" else -1
    opens = held * sign >= 0
    intent = f"{entry.side}_to_{'open' if opens else 'close'}"
    if entry.position_intent and entry.position_intent != intent:
        if asset.asset_class == OPTION and entry.position_intent == "sell_to_open":
            raise forbidden("account not eligible to trade uncovered option contracts")
        raise unprocessable(f"position intent mismatch, inferred: {intent}, specified: {entry.position_intent}")
    _check_class(desk, asset, entry, opens=opens)
    _check_wash(account, asset, entry)
    price = desk.price_for(asset, entry.side)
    if entry.notional is None and asset.asset_class == CRYPTO:
        check_minimum(asset, (entry.qty or ZERO) * (entry.limit_price or price))
    elif entry.notional is not None:
        check_minimum(asset, entry.notional)
    if not opens:
        wanted = entry.qty if entry.qty is not None else (entry.notional or ZERO) / price
        check_available(account, asset, wanted, freed=ZERO)
        return Verdict(False, intent, ZERO)
    if entry.side == "sell":
        _check_short(desk, account, asset, entry)
    if entry.notional is not None:
        check_funds(desk, account, asset, entry.notional)
        return Verdict(True, intent, entry.notional)
    per_unit = unit_reserve(desk, asset, entry.type, entry.side, entry.limit_price, entry.stop_price)
    check_funds(desk, account, asset, (entry.qty or ZERO) * per_unit)
    return Verdict(True, intent, per_unit)


def unit_reserve(
    desk: Desk, asset: Asset, order_type: str, side: str, limit: Decimal | None, stop: Decimal | None
) -> Decimal:
    """Money kept back for one unit of an opening order."""
    return reserve_price(order_type, side, limit, stop, desk.price_for(asset, "buy")) * asset.multiplier


def check_funds(desk: Desk, account: Account, asset: Asset | None, cost: Decimal, *, freed: Decimal = ZERO) -> None:
    """Enough buying power for `cost`; `freed` is what an order being replaced gives back. asset None: options."""
    now = desk.figures(account)
    fully_paid = asset is None or asset.fully_paid
    power = (now.non_marginable if fully_paid else now.buying_power) + freed
    if cost <= power:
        return
    if asset is not None and asset.asset_class == CRYPTO:
        raise forbidden(f"insufficient balance for USD (requested: {text(cost)}, available: {text(power)})")
    kind = "options buying power" if asset is None or asset.asset_class == OPTION else "buying power"
    raise forbidden(f"insufficient {kind}", buying_power=text(power), cost_basis=text(cost))


def check_available(account: Account, asset: Asset, wanted: Decimal, *, freed: Decimal) -> None:
    """Enough units that no other order holds; `freed`: those of an order being replaced."""
    existing = abs(account.ledger.qty(asset))
    held = account.held_for_orders(asset) - freed
    if wanted <= existing - held:
        return
    if asset.asset_class == CRYPTO:
        coin = asset.symbol.partition("/")[0]
        message = f"insufficient balance for {coin} (requested: {text(wanted)}, available: {text(existing - held)})"
    else:
        message = (
            f"insufficient qty available for order (requested: {text(wanted)}, available: {text(existing - held)})"
        )
    raise forbidden(
        message,
        available=text(existing - held),
        existing_qty=text(existing),
        held_for_orders=text(held),
        symbol=asset.position_symbol,
        related_orders=[each.id for each in account.open_of(asset) if not each.opens],
    )


def check_legs(desk: Desk, account: Account, entry: Entry) -> Decimal:
    """An mleg order: positions for its closing legs, money for the rest; what it reserves per unit."""
    for leg in entry.legs:
        _check_leg(account, leg, entry.qty or ZERO)
    net = sum((_signed(leg) * desk.price_for(leg.asset, leg.side) for leg in entry.legs), ZERO)
    limit = net if entry.limit_price is None else entry.limit_price
    per_unit = max(limit, ZERO)
    written = [leg for leg in entry.legs if leg.position_intent == "sell_to_open"]
    strikes = [leg.asset.contract.strike for leg in entry.legs if leg.asset.contract is not None]
    if written and limit <= 0 and strikes:
        per_unit = max(strikes) - min(strikes) or max(strikes)
    cost = per_unit * entry.legs[0].asset.multiplier
    check_funds(desk, account, None, cost * (entry.qty or ZERO))
    return cost


def _check_leg(account: Account, leg: Leg, qty: Decimal) -> None:
    held = account.ledger.qty(leg.asset)
    closes = leg.position_intent.endswith("close")
    against = held * (1 if leg.side == "buy" else -1) < 0
    if closes != against:
        inferred = f"{leg.side}_to_{'close' if against else 'open'}"
        raise unprocessable(f"position intent mismatch, inferred: {inferred}, specified: {leg.position_intent}")
    if closes:
        check_available(account, leg.asset, leg.ratio * qty, freed=ZERO)
    elif any(each.side != leg.side and each.opens for each in account.open_of(leg.asset)):
        raise forbidden("potential wash trade detected", reject_reason="opposite side order exists")


def _signed(leg: Leg) -> Decimal:
    return leg.ratio if leg.side == "buy" else -leg.ratio


def _check_class(desk: Desk, asset: Asset, entry: Entry, *, opens: bool) -> None:
    if entry.order_class == "oco" and opens:
        raise unprocessable("oco orders must be exit orders")
    if entry.order_class in ("bracket", "oto"):
        if not opens:
            raise unprocessable(f"{entry.order_class} orders must be entry orders")
        if entry.type == "market":
            check_exits(entry.side, desk.prices.last_of(asset), entry.take_profit, entry.stop_loss)


def _check_wash(account: Account, asset: Asset, entry: Entry) -> None:
    """An open order on the other side refuses a plain order; a complex one only when both may open a position."""
    if entry.order_class == "oco":
        return
    for order in account.open_of(asset):
        if order.side != entry.side and (not entry.order_class or order.opens):
            raise forbidden(
                "potential wash trade detected. use complex orders",
                existing_order_id=order.id,
                reject_reason=f"opposite side {order.type} order exists",
            )


def _check_short(desk: Desk, account: Account, asset: Asset, entry: Entry) -> None:
    if asset.asset_class == CRYPTO:
        coin, wanted = asset.symbol.partition("/")[0], text(entry.qty or entry.notional or ZERO)
        raise forbidden(f"insufficient balance for {coin} (requested: {wanted}, available: 0)")
    if asset.asset_class != EQUITY:
        raise forbidden("account not eligible to trade uncovered option contracts")
    if entry.notional is not None or (entry.qty or ZERO) % 1:
        raise unprocessable("fractional orders cannot be sold short")
    if not asset.shortable or not asset.easy_to_borrow:
        raise forbidden(f'asset "{asset.symbol}" cannot be sold short')
    now = desk.figures(account)
    if account.configurations.no_shorting or now.equity < MARGIN_FLOOR or now.multiplier == 1:
        raise forbidden("account is not allowed to short")
