"""The cash and the positions of one account, booked by hand: no engine and no mirror has a say in them.

Cash moves by minus signed quantity times price (times 100 for options) with each fill, exactly, and by deposits and
fees. A position is one signed quantity per asset with its cost; closing takes a proportional share of the cost, a fill
through zero starts anew (reference/alpaca.md §1.3).
Invariants: cash = everything paid in - sum of signed fills - cash fees; qty = sum of signed fills - fees in the asset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from bridge.simulator.alpaca.market.catalogue import Asset
from bridge.simulator.alpaca.numbers import EXACT, ZERO, divided


@dataclass(slots=True)
class Holding:
    """A position: `qty` signed, `cost` and `day_cost` signed USD (what was paid; what it was worth at the last close
    for units held then)."""

    asset: Asset
    qty: Decimal = ZERO
    cost: Decimal = ZERO
    day_cost: Decimal = ZERO
    carried_qty: Decimal = ZERO  # units that were here at the last close

    @property
    def side(self) -> str:
        return "long" if self.qty > 0 else "short"

    @property
    def avg_entry_price(self) -> Decimal:
        """Per unit, nine decimals at most."""
        return divided(self.cost, self.qty * self.asset.multiplier)

    def value(self, price: Decimal) -> Decimal:
        """Signed market value."""
        return EXACT.multiply(self.qty, price) * self.asset.multiplier


@dataclass(slots=True)
class Ledger:
    """`holdings` by asset id; a flat one disappears."""

    cash: Decimal = ZERO
    holdings: dict[str, Holding] = field(default_factory=dict)

    def qty(self, asset: Asset) -> Decimal:
        """Signed units held."""
        held = self.holdings.get(asset.id)
        return ZERO if held is None else held.qty

    def fill(self, asset: Asset, signed_qty: Decimal, price: Decimal) -> None:
        """Book an execution."""
        held = self.holdings.setdefault(asset.id, Holding(asset))
        closing = ZERO
        if held.qty * signed_qty < 0:
            closing = min(abs(held.qty), abs(signed_qty)).copy_sign(signed_qty)
            self._take_out(held, closing)
        opening = signed_qty - closing
        if opening:
            paid = EXACT.multiply(opening, price) * asset.multiplier
            held.qty += opening
            held.cost += paid
            held.day_cost += paid
        self.cash -= EXACT.multiply(signed_qty, price) * asset.multiplier
        self._drop_if_flat(held)

    def charge_asset(self, asset: Asset, qty: Decimal) -> None:
        """Take a fee out of a long position; its average price stays."""
        held = self.holdings[asset.id]
        self._take_out(held, -qty)
        self._drop_if_flat(held)

    def close_day(self, last: dict[str, Decimal]) -> None:
        """The session has ended: today's result counts from these last prices (by asset id)."""
        for asset_id, held in self.holdings.items():
            held.day_cost = held.value(last[asset_id])
            held.carried_qty = held.qty

    def _take_out(self, held: Holding, signed_qty: Decimal) -> None:
        """Reduce by units of the opposite sign; the rest keeps its share of the costs."""
        rest = held.qty + signed_qty
        if rest == 0:
            held.cost = held.day_cost = ZERO
        else:
            held.cost = divided(EXACT.multiply(held.cost, rest), held.qty)
            held.day_cost = divided(EXACT.multiply(held.day_cost, rest), held.qty)
        held.qty = rest
        if abs(held.carried_qty) > abs(rest):
            held.carried_qty = rest

    def _drop_if_flat(self, held: Holding) -> None:
        if held.qty == 0:
            del self.holdings[held.asset.id]
