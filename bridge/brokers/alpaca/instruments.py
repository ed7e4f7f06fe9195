"""What Alpaca's assets are in our words: one catalogue per environment, shared by all its accounts.

Positions and orders name an asset before its own document is read, so an instrument is made of what they say and made
anew of the asset (reference/alpaca.md §1.3). Crypto is `BTC/USD` in assets and orders, `BTCUSD` in positions. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from enum import StrEnum

from bridge.brokers.alpaca.values import Document, amount, identity, number, symbol, word
from core.errors import ProtocolViolation
from core.instruments import Catalogue, Instrument

DOLLAR = "USD"
PRICE_DIGITS, PENNY_DIGITS, CRYPTO_DIGITS = 2, 4, 9
OPTION_MULTIPLIER = Decimal(100)
_ONE = Decimal(1)
_OCC = re.compile(r"[A-Z0-9]{1,6}[0-9]{6}[CP][0-9]{8}")
_QUOTES = ("USDT", "USDC", "USD", "BTC")  # what crypto is quoted in; the longer first
NOBODY = "00000000-0000-0000-0000-000000000000"  # the asset id of a multi-leg order


class AssetClass(StrEnum):
    """How an asset is priced and where its prices come from."""

    EQUITY = "us_equity"
    OPTION = "us_option"
    CRYPTO = "crypto"
    OTHER = "other"


class Assets:
    """The assets of one environment. Only the adapter writes here."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self._classes: dict[str, AssetClass] = {}
        self._ids: dict[str, str] = {}  # by symbol without a slash
        self._described: set[str] = set()

    def of_asset(self, source: Document) -> Instrument:
        """Make or renew the instrument of an asset's own document. Raises ProtocolViolation."""
        key, name = identity(source, "id"), symbol(source)
        if key is None or name is None:
            raise ProtocolViolation("an asset without id or symbol")
        kind = _class_of(word(source, "class") or word(source, "asset_class"), name)
        known = self.catalogue.instruments.get(key)
        digits = known.price_digits if known is not None else PRICE_DIGITS
        if kind is AssetClass.CRYPTO:
            increment = number(source.get("price_increment"))
            digits = CRYPTO_DIGITS if increment is None else min(_decimals(increment), CRYPTO_DIGITS)
        base, quote_asset = _pair(kind, name)
        instrument = Instrument(
            key,
            name,
            digits,
            base,
            quote_asset,
            min_units=amount(source.get("min_order_size")),
            step_units=amount(source.get("min_trade_increment")),
            multiplier=_multiplier(kind),
        )
        self._keep(instrument, kind)
        self._described.add(key)
        return instrument

    def of_holding(self, source: Document, price: Decimal | None = None) -> Instrument:
        """The instrument that a position or order is of; `price`: its present price, if known. Raises
        ProtocolViolation when neither its id nor its symbol is known."""
        said = source.get("asset_id")
        usual = self.catalogue.instruments.get(said) if type(said) is str else None
        if usual is not None and usual.name == source.get("symbol"):
            return usual if price is None else self._with_price(usual, price)
        name, key = symbol(source), identity(source, "asset_id")
        if key is None or key == NOBODY:
            key = self.id_of_symbol(name or "") or name
        if key is None:
            raise ProtocolViolation("neither an asset id nor a symbol")
        known = self.catalogue.instruments.get(key)
        if known is not None and not self._says_more(known, name):
            return self._with_price(known, price)
        kind = _class_of(word(source, "asset_class"), name or "")
        digits = CRYPTO_DIGITS if kind is AssetClass.CRYPTO else PRICE_DIGITS
        base, quote_asset = _pair(kind, name or key)
        instrument = Instrument(key, name or key, digits, base, quote_asset, multiplier=_multiplier(kind))
        self._keep(instrument, kind)
        return self._with_price(instrument, price)

    def of_legs(self, legs: Iterable[Document]) -> Instrument:
        """What a multi-leg order is of: its legs together. Raises ProtocolViolation when none has a symbol."""
        names = [name for name in map(symbol, legs) if name is not None]
        if not names:
            raise ProtocolViolation("an order of no asset and no legs")
        name = " + ".join(names)
        known = self.catalogue.instruments.get(name)
        if known is None:
            known = Instrument(name, name, PRICE_DIGITS, name, DOLLAR, multiplier=OPTION_MULTIPLIER)
            self.catalogue.instruments[name] = known
        return known

    def undescribed(self, instrument_ids: Iterable[str]) -> list[str]:
        """Those whose own document was not read yet."""
        return [key for key in instrument_ids if key not in self._described]

    def asset_class(self, instrument_id: str) -> AssetClass | None:
        """The class of an asset; None when it was never seen."""
        return self._classes.get(instrument_id)

    def stream_symbol(self, instrument_id: str) -> str | None:
        """How price streams name it; None when it was never seen."""
        known = self.catalogue.instruments.get(instrument_id)
        return None if known is None else known.name

    def id_of_symbol(self, name: str) -> str | None:
        """The asset of a symbol, with or without a slash; None when it was never seen."""
        return self._ids.get(name.replace("/", ""))

    def _says_more(self, known: Instrument, name: str | None) -> bool:
        """Whether this symbol shows more than the one known: crypto has its slash in orders only."""
        if known.id in self._described or name is None:
            return False
        return known.name == known.id != name or ("/" in name and "/" not in known.name)

    def _with_price(self, instrument: Instrument, price: Decimal | None) -> Instrument:
        """Stocks below a dollar have four digits, above it two."""
        if price is None or self._classes.get(instrument.id) is not AssetClass.EQUITY:
            return instrument
        digits = PENNY_DIGITS if price < 1 else PRICE_DIGITS
        if digits != instrument.price_digits:
            instrument = replace(instrument, price_digits=digits)
            self.catalogue.instruments[instrument.id] = instrument
        return instrument

    def _keep(self, instrument: Instrument, kind: AssetClass) -> None:
        self.catalogue.instruments[instrument.id] = instrument
        self._classes[instrument.id] = kind
        self._ids[instrument.name.replace("/", "")] = instrument.id


def _class_of(said: str | None, name: str) -> AssetClass:
    """The class that is said, else the one that the symbol shows."""
    if said is not None:
        return AssetClass(said) if said in tuple(AssetClass) else AssetClass.OTHER
    if _OCC.fullmatch(name):
        return AssetClass.OPTION
    return AssetClass.CRYPTO if "/" in name else AssetClass.EQUITY


def _pair(kind: AssetClass, name: str) -> tuple[str, str]:
    """Base and quote asset. A position's crypto symbol has no slash to tell where one ends."""
    if kind is not AssetClass.CRYPTO:
        return name, DOLLAR
    base, slash, quote_asset = name.partition("/")
    if slash:
        return base, quote_asset
    for ending in _QUOTES:
        if name.endswith(ending) and name != ending:
            return name.removesuffix(ending), ending
    return name, DOLLAR


def _multiplier(kind: AssetClass) -> Decimal:
    return OPTION_MULTIPLIER if kind is AssetClass.OPTION else _ONE


def _decimals(increment: Decimal) -> int:
    """Digits after the point that an increment needs: 0.0100 needs two."""
    exponent = increment.normalize().as_tuple().exponent
    return max(-exponent, 0) if isinstance(exponent, int) else CRYPTO_DIGITS
