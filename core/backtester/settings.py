"""What a backtest assumes: the broker's listings and rules, the account's terms, the money it starts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from core.errors import InvalidInput
from core.instruments import Instrument
from core.paper_trader import AccountSettings, Listing, MarketSettings

ACCOUNT = "backtest"
MARKET = "backtest"


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestSettings:
    """`listings`: every instrument with data, and no other (a conversion needs data of its instruments too).

    `balance`: deposit at the start, in the account's currency. `market`: rules of the server, slippage among them.
    `close_at_end`: close what is open at the last prices. `seed`: of the engine's generator (partial fills only).
    """

    listings: tuple[Listing, ...]
    account: AccountSettings = field(default_factory=lambda: AccountSettings(currency="USD"))
    market: MarketSettings = field(default_factory=MarketSettings)
    balance: Decimal = Decimal(10_000)
    close_at_end: bool = False
    seed: int = 0

    def listing(self, instrument_id: str) -> Listing:
        """Raises InvalidInput for an instrument that is not listed."""
        for listing in self.listings:
            if listing.instrument.id == instrument_id:
                return listing
        raise InvalidInput(f"no listing for {instrument_id}", field="listings")


def simple_listing(instrument_id: str, *, price_digits: int = 5, base: str = "", quote: str = "USD") -> Listing:
    """A listing without limits on units, where a broker's terms do not matter; `base` defaults to the id."""
    instrument = Instrument(instrument_id, instrument_id, price_digits, base or instrument_id, quote)
    return Listing(instrument=instrument, pip_digits=max(price_digits - 1, 0))


def check_settings(settings: BacktestSettings, names: Mapping[str, object]) -> None:
    """Raises InvalidInput unless listings and data name the same instruments and there is money to start with."""
    listed = [each.instrument.id for each in settings.listings]
    if not listed:
        raise InvalidInput("a backtest needs a listing", field="settings.listings")
    if len(set(listed)) != len(listed):
        raise InvalidInput("an instrument is listed twice", field="settings.listings")
    if set(listed) != set(names):
        odd = sorted(set(listed) ^ set(names))
        raise InvalidInput(f"listings and data differ in {', '.join(odd)}", field="data")
    if not settings.balance.is_finite() or settings.balance <= 0:
        raise InvalidInput("must be above 0", field="settings.balance")
