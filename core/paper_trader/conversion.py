"""Currency conversion through listed instruments, over chains of any length.

The amount walks the chain: multiplied by the BID where it holds the instrument's base, divided by it where it holds the
quote asset (Open API reference §4.2). Products and quotients are gathered exactly and divided once, so the only
rounding is the caller's. This is the broker's own arithmetic: it must not share code with `core.valuation`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal

from core.instruments import Instrument

# Wide enough that amount × prices over several hops stays exact; only a division is cut, far below any money digit.
EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
ONE = Decimal(1)

BidOf = Callable[[str], Decimal | None]


@dataclass(frozen=True, slots=True)
class Step:
    """One hop: multiply by the instrument's bid, or divide when `inverse`."""

    instrument_id: str
    inverse: bool


class Converter:
    """Finds and walks chains between assets of one broker server.

    `bid_of(instrument_id)` gives the present bid or None. The shortest chain wins, the earliest listed instrument among
    equals, so the same listings always give the same chain.
    """

    def __init__(self, bid_of: BidOf) -> None:
        self._bid_of = bid_of
        self._edges: dict[str, list[tuple[str, Step]]] = {}
        self._chains: dict[tuple[str, str], tuple[Step, ...] | None] = {}

    def add(self, instrument: Instrument) -> None:
        """Let conversions use this instrument."""
        base, quote = instrument.base_asset, instrument.quote_asset
        self._edges.setdefault(base, []).append((quote, Step(instrument.id, inverse=False)))
        self._edges.setdefault(quote, []).append((base, Step(instrument.id, inverse=True)))
        self._chains.clear()

    def chain(self, from_asset: str, to_asset: str) -> tuple[Step, ...] | None:
        """The chain, () for equal assets, None when the listings do not connect them."""
        if from_asset == to_asset:
            return ()
        key = (from_asset, to_asset)
        if key not in self._chains:
            self._chains[key] = self._search(from_asset, to_asset)
        return self._chains[key]

    def convert(self, amount: Decimal, from_asset: str, to_asset: str) -> Decimal | None:
        """`amount` in the other asset, unrounded; None without a chain or with a price missing on it."""
        if from_asset == to_asset:
            return amount
        ratio = self._ratio(from_asset, to_asset)
        if ratio is None:
            return None
        numerator, denominator = ratio
        return EXACT.divide(EXACT.multiply(amount, numerator), denominator)

    def rate(self, from_asset: str, to_asset: str) -> Decimal | None:
        """What one unit of `from_asset` is worth; None as in `convert`."""
        return self.convert(ONE, from_asset, to_asset)

    def _ratio(self, from_asset: str, to_asset: str) -> tuple[Decimal, Decimal] | None:
        steps = self.chain(from_asset, to_asset)
        if steps is None:
            return None
        numerator = denominator = ONE
        for step in steps:
            bid = self._bid_of(step.instrument_id)
            if bid is None:
                return None
            if step.inverse:
                denominator = EXACT.multiply(denominator, bid)
            else:
                numerator = EXACT.multiply(numerator, bid)
        return numerator, denominator

    def _search(self, from_asset: str, to_asset: str) -> tuple[Step, ...] | None:
        """Breadth first over the assets."""
        came: dict[str, tuple[Step, ...]] = {from_asset: ()}
        queue = deque([from_asset])
        while queue:
            asset = queue.popleft()
            for neighbour, step in self._edges.get(asset, ()):
                if neighbour in came:
                    continue
                came[neighbour] = (*came[asset], step)
                if neighbour == to_asset:
                    return came[neighbour]
                queue.append(neighbour)
        return None
