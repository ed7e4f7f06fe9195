"""Valuation: what the positions of a mirror are worth now, in its deposit currency.

P&L of a position = gross + swap + commission (Open API reference §4.2): gross in the quote currency (bid for a
BUY, ask for a SELL), converted over the chain at bid on every hop, rounded half-even to the deposit digits per
position, then summed. Equity is balance + P&L or, where the balance is cash, cash + market values (`EquityRule`). A
missing quote or rate makes that P&L and every total that needs it None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal

from core.account import AccountMirror, EquityRule
from core.instruments import Chain, Instrument
from core.money import round_money
from core.orders import Side
from core.positions import Position

_CONTEXT = Context(prec=34)
_ZERO = Decimal(0)
_HUNDRED = Decimal(100)


@dataclass(frozen=True, slots=True)
class PositionValue:
    """Present price (closing side) and net P&L in the deposit currency; None = cannot be known now.

    `market_value`: exact, negative when short; worked out only where equity is made of it.
    """

    current_price: Decimal | None
    unrealized_pnl: Decimal | None
    market_value: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Valuation:
    """Totals in the deposit currency; margin level in percent, None when no margin is used."""

    positions: dict[str, PositionValue]
    unrealized_pnl: Decimal | None
    equity: Decimal | None
    used_margin: Decimal | None
    free_margin: Decimal | None
    margin_level: Decimal | None


def value_account(mirror: AccountMirror) -> Valuation:
    """Value every position of the mirror with the quotes it holds."""
    values = {position.id: value_position(mirror, position) for position in mirror.positions.values()}
    pnl = _sum(value.unrealized_pnl for value in values.values())
    used = used_margin(mirror)
    equity = _equity(mirror, pnl, values.values())
    free = None if equity is None or used is None else equity - used
    level = None
    if equity is not None and used:
        level = round_money(_CONTEXT.divide(equity * _HUNDRED, used), 2)
    return Valuation(values, pnl, equity, used, free, level)


def used_margin(mirror: AccountMirror) -> Decimal | None:
    """As the broker says of the account, else the sum of its positions'; None when one of them is not known."""
    if mirror.used_margin is not None:
        return mirror.used_margin
    return _sum(position.used_margin for position in mirror.positions.values())


def units_and_cost(position: Position, instrument: Instrument) -> tuple[Decimal, Decimal]:
    """How many of the thing priced are held, and what they were bought (or sold short) for; both positive."""
    units = _CONTEXT.multiply(position.units, instrument.multiplier)
    return units, _CONTEXT.multiply(position.entry_price, units) if position.cost is None else position.cost


def _sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """None as soon as one is not known."""
    total = _ZERO
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def _equity(mirror: AccountMirror, pnl: Decimal | None, values: Iterable[PositionValue]) -> Decimal | None:
    profit = mirror.equity_rule is EquityRule.PROFIT
    held = pnl if profit else _sum(value.market_value for value in values)
    if held is None or mirror.balance is None:
        return None
    return mirror.balance + held if profit else round_money(mirror.balance + held, mirror.money_digits)


def value_position(mirror: AccountMirror, position: Position) -> PositionValue:
    """Price and net P&L of one position."""
    price = _closing_price(mirror, position)
    instrument = mirror.catalogue.instruments.get(position.instrument_id)
    if price is None or instrument is None:
        return PositionValue(price, None)
    units, cost = units_and_cost(position, instrument)
    worth = _CONTEXT.multiply(price, units)
    sign = 1 if position.side is Side.BUY else -1
    if mirror.currency is None:
        return PositionValue(price, None)
    chain = mirror.catalogue.chain(instrument.quote_asset, mirror.currency)
    gross = None if chain is None else convert(sign * _CONTEXT.subtract(worth, cost), chain, mirror)
    if chain is None or gross is None:
        return PositionValue(price, None)
    value = convert(sign * worth, chain, mirror) if mirror.equity_rule is EquityRule.VALUE else None
    return PositionValue(price, round_money(gross + position.swap + position.commission, mirror.money_digits), value)


def convert(amount: Decimal, chain: Chain, mirror: AccountMirror) -> Decimal | None:
    """Walk a conversion chain at bid on every hop; None when a bid is missing."""
    for hop in chain:
        quote = mirror.quotes.get(hop.instrument_id)
        if quote is None or not quote.bid:
            return None
        rate = Decimal(quote.bid).scaleb(-mirror.quote_digits)
        amount = _CONTEXT.divide(amount, rate) if hop.inverse else _CONTEXT.multiply(amount, rate)
    return amount


def needed_quotes(mirror: AccountMirror) -> set[str]:
    """Instrument ids whose quotes the valuation of this mirror needs (held ones and their known chains)."""
    needed: set[str] = set()
    for position in mirror.positions.values():
        needed.add(position.instrument_id)
        instrument = mirror.catalogue.instruments.get(position.instrument_id)
        if instrument is not None and mirror.currency is not None:
            chain = mirror.catalogue.chain(instrument.quote_asset, mirror.currency)
            needed.update(hop.instrument_id for hop in chain or ())
    return needed


def _closing_price(mirror: AccountMirror, position: Position) -> Decimal | None:
    quote = mirror.quotes.get(position.instrument_id)
    if quote is None:
        return None
    raw = quote.bid if position.side is Side.BUY else quote.ask
    return None if raw is None else Decimal(raw).scaleb(-mirror.quote_digits)
