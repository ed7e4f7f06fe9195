"""Instruments, conversion chains and the catalogue that accounts of one broker server share."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Instrument:
    """What can be traded.

    `price_digits` decimals of a price; `lot_units` units of one lot (None where the broker has no lots);
    `base_asset`, `quote_asset` asset names such as "EUR"; unit limits in units, None where unknown. `multiplier`: how
    many of the thing priced one unit stands for (100 for most equity options).
    """

    id: str
    name: str
    price_digits: int
    base_asset: str
    quote_asset: str
    lot_units: Decimal | None = None
    min_units: Decimal | None = None
    max_units: Decimal | None = None
    step_units: Decimal | None = None
    multiplier: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of a currency conversion over an instrument's bid: multiply, or divide when `inverse`."""

    instrument_id: str
    inverse: bool


Chain = tuple[Hop, ...]


@dataclass(slots=True)
class Catalogue:
    """Instruments and conversion chains of one broker server; shared by all its accounts' mirrors.

    `chains[(from_asset, to_asset)]` is the ordered conversion chain; an absent key means "not known yet".
    Equal assets need no chain. Only the adapter writes here.
    """

    instruments: dict[str, Instrument] = field(default_factory=dict)
    chains: dict[tuple[str, str], Chain] = field(default_factory=dict)

    def chain(self, from_asset: str, to_asset: str) -> Chain | None:
        """The chain from one asset to another: () when they are the same, None when it is not known."""
        if from_asset == to_asset:
            return ()
        return self.chains.get((from_asset, to_asset))
