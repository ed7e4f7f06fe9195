"""What the simulated Alpaca lists: stocks, crypto pairs and option contracts, in plain tables.

Asset ids are the same in every run (uuid5 of the symbol). Every list begins with AAPL. Crypto is listed with a slash
and accepted without one; positions are named without (reference/alpaca.md §1.3). All options expire on the third Friday
of January of EXPIRY_YEAR, far enough away that no simulation sees it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.numbers import maybe_text, text
from core.instruments import Instrument
from core.paper_trader.settings import Listing

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "simulated-alpaca")
EQUITY, OPTION, CRYPTO = "us_equity", "us_option", "crypto"
EXPIRY_YEAR = 2035
OPTION_MULTIPLIER = Decimal(100)
_ONE = Decimal(1)


def third_friday(year: int, month: int) -> date:
    """The day monthly options expire on."""
    first = date(year, month, 1)
    return first + timedelta(days=(4 - first.weekday()) % 7 + 14)


@dataclass(frozen=True, slots=True)
class Contract:
    """What an option is on."""

    underlying: str
    kind: str  # call | put
    strike: Decimal
    expires: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One row. `start`: first bid; `digits`: of its prices in the walk; `spread` and `step` in 10^-digits; `margin_*`
    in percent, what must be kept of a position's value (maintenance)."""

    symbol: str
    name: str
    asset_class: str = EQUITY
    exchange: str = "NASDAQ"
    start: Decimal
    digits: int = 2
    spread: int = 2
    step: int = 6
    marginable: bool = True
    shortable: bool = True
    easy_to_borrow: bool = True
    fractionable: bool = True
    margin_long: int = 30
    margin_short: int = 30
    attributes: tuple[str, ...] = ("fractional_eh_enabled", "has_options")
    min_order_size: Decimal | None = None
    qty_step: Decimal | None = None
    contract: Contract | None = None
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", str(uuid.uuid5(NAMESPACE, f"asset:{self.symbol}")))

    def __deepcopy__(self, memo: dict[int, Any]) -> Asset:
        return self

    @property
    def multiplier(self) -> Decimal:
        return OPTION_MULTIPLIER if self.contract is not None else _ONE

    @property
    def position_symbol(self) -> str:
        """How positions name it: crypto without the slash."""
        return self.symbol.replace("/", "")

    @property
    def fully_paid(self) -> bool:
        """Bought with cash only: crypto, options, and stocks nobody lends on."""
        return self.asset_class != EQUITY or not self.marginable

    def price_digits(self, price: Decimal) -> int:
        """Decimals of its prices: 2, or 4 below a dollar; crypto by its increment."""
        if self.asset_class == CRYPTO:
            return self.digits
        return 2 if price >= 1 else 4

    def listing(self) -> Listing:
        """The engine's terms. Every price digit an order may use is allowed there; the rules of entry are ours."""
        base = self.symbol.partition("/")[0]
        digits = self.digits if self.asset_class == CRYPTO else 4
        return Listing(
            instrument=Instrument(
                self.id, self.symbol, digits, base, "USD", step_units=self.qty_step, multiplier=self.multiplier
            )
        )

    def document(self) -> dict[str, Any]:
        """Asset of reference §1.3."""
        row: dict[str, Any] = {
            "id": self.id,
            "class": self.asset_class,
            "exchange": self.exchange,
            "symbol": self.symbol,
            "name": self.name,
            "status": "active",
            "tradable": True,
            "marginable": self.marginable,
            "maintenance_margin_requirement": self.margin_long,
            "margin_requirement_long": str(self.margin_long),
            "margin_requirement_short": str(self.margin_short),
            "shortable": self.shortable,
            "easy_to_borrow": self.easy_to_borrow,
            "borrow_status": "easy_to_borrow" if self.easy_to_borrow else "hard_to_borrow",
            "fractionable": self.fractionable,
            "attributes": list(self.attributes),
            "cusip": None,
        }
        if self.asset_class == CRYPTO:
            row["min_order_size"] = maybe_text(self.min_order_size)
            row["min_trade_increment"] = maybe_text(self.qty_step)
            row["price_increment"] = text(Decimal(1).scaleb(-self.digits))
        return row

    def contract_document(self, last: Decimal) -> dict[str, Any]:
        """Option contract of /v2/options/contracts."""
        contract = self.contract
        if contract is None:
            raise ValueError(f"{self.symbol} is no option")
        return {
            "id": self.id,
            "symbol": self.symbol,
            "name": self.name,
            "status": "active",
            "tradable": True,
            "expiration_date": contract.expires.isoformat(),
            "root_symbol": contract.underlying,
            "underlying_symbol": contract.underlying,
            "underlying_asset_id": str(uuid.uuid5(NAMESPACE, f"asset:{contract.underlying}")),
            "type": contract.kind,
            "style": "american",
            "strike_price": text(contract.strike),
            "multiplier": text(OPTION_MULTIPLIER),
            "size": text(OPTION_MULTIPLIER),
            "open_interest": None,
            "open_interest_date": None,
            "close_price": text(last),
            "close_price_date": None,
        }


# Nobody lends it, and nobody lends on it.
_UNLENT: dict[str, Any] = {"marginable": False, "shortable": False, "easy_to_borrow": False, "attributes": ()}


def _stock(symbol: str, name: str, start: str, **terms: Any) -> Asset:
    return Asset(symbol=symbol, name=name, start=Decimal(start), **terms)


def _pair(symbol: str, name: str, start: str, digits: int, minimum: str, *, spread: int, step: int) -> Asset:
    return Asset(
        symbol=symbol,
        name=name,
        asset_class=CRYPTO,
        exchange="CRYPTO",
        start=Decimal(start),
        digits=digits,
        spread=spread,
        step=step,
        margin_long=100,
        margin_short=0,
        min_order_size=Decimal(minimum),
        qty_step=Decimal("0.000000001"),
        **_UNLENT,
    )


def _option(underlying: str, kind: str, strike: int, start: str) -> Asset:
    expires = third_friday(EXPIRY_YEAR, 1)
    symbol = f"{underlying}{expires:%y%m%d}{kind[0].upper()}{strike * 1000:08d}"
    return Asset(
        symbol=symbol,
        name=f"{underlying} {expires:%b %d %Y} {strike} {kind.title()}",
        asset_class=OPTION,
        exchange="",
        start=Decimal(start),
        spread=4,
        step=3,
        fractionable=False,
        margin_long=100,
        margin_short=100,
        contract=Contract(underlying, kind, Decimal(strike), expires),
        **_UNLENT,
    )


ASSETS: tuple[Asset, ...] = (
    _stock("AAPL", "Apple Inc. Common Stock", "226.40"),
    _stock("MSFT", "Microsoft Corporation Common Stock", "417.10"),
    _stock("SPY", "SPDR S&P 500 ETF Trust", "598.30", exchange="ARCA"),
    _stock("TSLA", "Tesla, Inc. Common Stock", "342.60", step=14, margin_long=40, margin_short=40),
    _stock("F", "Ford Motor Company", "11.20", exchange="NYSE", spread=1, step=2),
    _stock("GME", "GameStop Corporation", "28.40", exchange="NYSE", step=3, margin_long=100, margin_short=100),
    _stock(
        "PENY",
        "Penny Mining Corp.",
        "0.4210",
        digits=4,
        step=8,
        exchange="OTC",
        fractionable=False,
        margin_long=100,
        margin_short=100,
        **_UNLENT,
    ),
    _stock("HTB", "Hard To Borrow Inc.", "14.80", easy_to_borrow=False, fractionable=False, step=2, attributes=()),
    _stock("FAKEPACA", "Fake Alpaca Test Symbol", "134.50", attributes=()),
    _pair("BTC/USD", "Bitcoin / US Dollar", "97250.00", 2, "0.0001", spread=1200, step=3000),
    _pair("ETH/USD", "Ethereum / US Dollar", "3340.00", 2, "0.001", spread=90, step=180),
    _pair("DOGE/USD", "Dogecoin / US Dollar", "0.38120", 5, "1", spread=12, step=25),
    _option("AAPL", "call", 200, "41.20"),
    _option("AAPL", "put", 200, "12.80"),
    _option("AAPL", "call", 240, "22.10"),
    _option("SPY", "call", 600, "84.50"),
    _option("SPY", "put", 600, "47.30"),
    _option("SPY", "call", 640, "66.00"),
)


class Catalogue:
    """Looks assets up by id, symbol, and slash-less crypto name."""

    def __init__(self, assets: tuple[Asset, ...] = ASSETS) -> None:
        self.assets = assets
        self.by_id = {asset.id: asset for asset in assets}
        self._by_name = {name: asset for asset in assets for name in (asset.id, asset.symbol, asset.position_symbol)}

    def find(self, symbol_or_id: str) -> Asset | None:
        """The asset of that id or name; None for a stranger."""
        return self._by_name.get(symbol_or_id) or self._by_name.get(symbol_or_id.upper())

    def symbols(self, asset_class: str) -> tuple[str, ...]:
        """Symbols of a class, as assets say them."""
        return tuple(asset.symbol for asset in self.assets if asset.asset_class == asset_class)
