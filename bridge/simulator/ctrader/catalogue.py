"""What the toy brokers list: assets, symbols and their terms, in plain tables.

Two brokers, "Sim" and "Simex", each with a demo and a live server. Symbol and asset ids differ per server, Simex
marks prices up and lists no EURGBP, so that ids, prices and conversion chains cannot be mixed without being noticed.
Chains reach length 2 (CHF or GBP to JPY, GBP to EUR at Simex) and 3 (SEK to JPY). EURSEK is not enabled for trading
at Simex and serves conversions only. Every symbol list begins with EURUSD.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from core.instruments import Instrument
from core.paper_trader.settings import Commission, CommissionKind, Listing, Swap, SwapKind, TradingMode

_PER_MILLION = Commission(CommissionKind.PER_MILLION_USD, Decimal(35))
_PIPS = Swap(SwapKind.PIPS, Decimal("-0.6"), Decimal("0.2"))
ASSET_CLASSES = {1: "Forex", 2: "Metals", 3: "Indices"}


@dataclass(frozen=True, slots=True)
class SymbolTerms:
    """One row of the table. `mid` and `spread` are in points of 10^-digits; `volatility` is points per second."""

    name: str
    base: str
    quote: str
    digits: int
    pip_digits: int
    mid: int
    spread: int
    volatility: float
    asset_class: int = 1
    lot: int = 100_000
    minimum: int = 1_000
    step: int = 1_000
    maximum: int = 100_000_000
    commission: Commission = _PER_MILLION
    swap: Swap = _PIPS
    max_leverage: int | None = None
    description: str = ""


_PER_LOT = Commission(CommissionKind.PER_LOT_USD, Decimal(5))
_PERCENT = Commission(CommissionKind.PERCENT_OF_VALUE, Decimal("0.005"))
_QUOTE_LOT = Commission(CommissionKind.PER_LOT_QUOTE, Decimal("0.5"))
_POINTS = Swap(SwapKind.POINTS, Decimal("-12.5"), Decimal("4.5"))
_ANNUAL = Swap(SwapKind.PERCENT, Decimal("-6.5"), Decimal("-1.5"), at_weekends=True)

SYMBOLS: tuple[SymbolTerms, ...] = (
    SymbolTerms("EURUSD", "EUR", "USD", 5, 4, 108_450, 4, 3.0, description="Euro vs US Dollar"),
    SymbolTerms("GBPUSD", "GBP", "USD", 5, 4, 126_700, 8, 4.0, description="British Pound vs US Dollar"),
    SymbolTerms("USDJPY", "USD", "JPY", 3, 2, 150_250, 6, 4.0, description="US Dollar vs Japanese Yen"),
    SymbolTerms("USDCHF", "USD", "CHF", 5, 4, 88_300, 8, 3.0, description="US Dollar vs Swiss Franc"),
    SymbolTerms("AUDUSD", "AUD", "USD", 5, 4, 65_900, 8, 3.0, commission=_PER_LOT, description="Australian Dollar"),
    SymbolTerms("EURJPY", "EUR", "JPY", 3, 2, 162_950, 10, 5.0, swap=_POINTS, description="Euro vs Japanese Yen"),
    SymbolTerms("EURGBP", "EUR", "GBP", 5, 4, 85_600, 8, 2.0, description="Euro vs British Pound"),
    SymbolTerms("GBPCHF", "GBP", "CHF", 5, 4, 111_900, 18, 5.0, commission=_QUOTE_LOT, description="Pound vs Franc"),
    SymbolTerms("EURSEK", "EUR", "SEK", 5, 4, 1_143_000, 180, 30.0, max_leverage=50, description="Euro vs Krona"),
    SymbolTerms("XAUUSD", "XAU", "USD", 2, 1, 265_000, 18, 12.0, 2, 100, 1, 1, 50_000, _PERCENT, _ANNUAL, 20, "Gold"),
    SymbolTerms("US500", "US500", "USD", 1, 0, 59_500, 4, 2.0, 3, 1, 1, 1, 10_000, _PERCENT, _ANNUAL, 20, "US 500"),
    SymbolTerms("UK100", "UK100", "GBP", 1, 0, 82_500, 10, 3.0, 3, 1, 1, 1, 10_000, _PERCENT, _ANNUAL, 20, "UK 100"),
    SymbolTerms("SE30", "SE30", "SEK", 1, 0, 26_100, 20, 3.0, 3, 1, 1, 1, 10_000, _PERCENT, _ANNUAL, 10, "Sweden 30"),
)
TERMS_BY_NAME = {terms.name: terms for terms in SYMBOLS}


@dataclass(frozen=True, slots=True)
class BrokerRules:
    """How one broker differs from the table: ids `first_symbol_id + k·symbol_step`, wider spreads, gaps."""

    title: str
    name: str
    first_symbol_id: int
    symbol_step: int
    first_asset_id: int
    markup: int  # points added to the ask and taken from the bid
    left_out: frozenset[str] = frozenset()
    disabled: frozenset[str] = frozenset()


BROKERS: tuple[BrokerRules, ...] = (
    BrokerRules("Sim", "Sim Markets", 1, 1, 1, 0),
    BrokerRules("Simex", "Simex Brokerage", 201, 7, 40, 6, frozenset({"EURGBP"}), frozenset({"EURSEK"})),
)
# Live servers number their symbols and assets higher than the demo server of the same broker.
LIVE_SYMBOL_OFFSET = 1_000
LIVE_ASSET_OFFSET = 100


@dataclass(frozen=True, slots=True)
class ListedSymbol:
    """A symbol on one server."""

    id: int
    terms: SymbolTerms
    listing: Listing
    enabled: bool

    @property
    def instrument_id(self) -> str:
        """The engine's id of it."""
        return self.listing.instrument.id


@dataclass(frozen=True, slots=True)
class ServerCatalogue:
    """What one broker server (broker and environment) lists; `key` names the server, such as "Sim-demo".

    A price group of a server is one too, with a key of its own: same listings and ids, prices with a mark-up.
    """

    key: str
    base: str  # the key of the server itself
    rules: BrokerRules
    live: bool
    symbols: dict[int, ListedSymbol]
    by_name: dict[str, ListedSymbol]
    assets: dict[str, int]


def make_catalogue(rules: BrokerRules, live: bool) -> ServerCatalogue:
    """Number the table's symbols and assets for one server."""
    first = rules.first_symbol_id + (LIVE_SYMBOL_OFFSET if live else 0)
    listed = [terms for terms in SYMBOLS if terms.name not in rules.left_out]
    symbols = {}
    for index, terms in enumerate(listed):
        symbol_id = first + index * rules.symbol_step
        enabled = terms.name not in rules.disabled
        symbols[symbol_id] = ListedSymbol(symbol_id, terms, _listing(symbol_id, terms, enabled), enabled)
    names = dict.fromkeys(name for terms in SYMBOLS for name in (terms.base, terms.quote))
    offset = rules.first_asset_id + (LIVE_ASSET_OFFSET if live else 0)
    assets = {name: offset + index for index, name in enumerate(names)}
    by_name = {symbol.terms.name: symbol for symbol in symbols.values()}
    key = f"{rules.title}-{'live' if live else 'demo'}"
    return ServerCatalogue(key, key, rules, live, symbols, by_name, assets)


def _listing(symbol_id: int, terms: SymbolTerms, enabled: bool) -> Listing:
    instrument = Instrument(
        id=str(symbol_id),
        name=terms.name,
        price_digits=terms.digits,
        base_asset=terms.base,
        quote_asset=terms.quote,
        lot_units=Decimal(terms.lot),
        min_units=Decimal(terms.minimum),
        max_units=Decimal(terms.maximum),
        step_units=Decimal(terms.step),
    )
    return Listing(
        instrument=instrument,
        pip_digits=terms.pip_digits,
        commission=terms.commission,
        swap=terms.swap,
        trading_mode=TradingMode.ENABLED if enabled else TradingMode.DISABLED,
        max_leverage=None if terms.max_leverage is None else Decimal(terms.max_leverage),
    )
