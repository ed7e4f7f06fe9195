"""Any sequence of requests, prices and time leaves the books of the simulated Alpaca in order."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.simulator.alpaca.books import TIMES, TYPES, Books
from tests.unit.simulator.alpaca.house import CALL

PRICES = st.integers(18000, 27000).map(lambda cents: str(Decimal(cents).scaleb(-2)))
QTYS = st.sampled_from(["1", "2", "7", "10", "2.5"])
SIDES = st.sampled_from(["buy", "sell"])


class Life(RuleBasedStateMachine):
    @initialize(share=st.sampled_from([0.0, 0.1, 0.7]), seed=st.integers(0, 5))
    def begin(self, share: float, seed: int) -> None:
        self.books = Books(share, seed)

    @rule(
        side=SIDES,
        qty=QTYS,
        kind=st.sampled_from(TYPES),
        price=PRICES,
        tif=st.sampled_from(TIMES),
        extended=st.booleans(),
    )
    def single(self, **values: Any) -> None:
        self.books.single(**values)

    @rule(
        side=SIDES,
        qty=QTYS,
        name=st.sampled_from(["bracket", "oco", "oto"]),
        at=st.none() | PRICES,
        width=st.integers(1, 20),
        tif=st.sampled_from(["day", "gtc"]),
    )
    def group(self, **values: Any) -> None:
        self.books.group(**values)

    @rule(side=SIDES, qty=st.sampled_from(["0.01", "0.2"]), tif=st.sampled_from(["gtc", "ioc"]))
    def crypto(self, **values: Any) -> None:
        self.books.crypto(**values)

    @rule(side=SIDES, amount=st.sampled_from(["5", "100.10", "2000"]))
    def notional(self, **values: Any) -> None:
        self.books.notional(**values)

    @rule(opens=st.booleans(), limit=st.none() | st.sampled_from(["15", "25"]))
    def spread(self, **values: Any) -> None:
        self.books.spread(**values)

    @rule(which=st.integers(0, 12))
    def cancel(self, **values: Any) -> None:
        self.books.cancel(**values)

    @rule(
        which=st.integers(0, 12), changes=st.sampled_from(["qty", "limit_price", "stop_price", "trail"]), price=PRICES
    )
    def replace(self, **values: Any) -> None:
        self.books.replace(**values)

    @rule(cancel=st.booleans())
    def close_all(self, **values: Any) -> None:
        self.books.close_all(**values)

    @rule()
    def cancel_all(self) -> None:
        self.books.cancel_all()

    @rule(price=PRICES, size=st.none() | st.sampled_from(["0", "1", "4"]))
    def move(self, **values: Any) -> None:
        self.books.move(**values)

    @rule(symbol=st.sampled_from(["BTC/USD", CALL]), up=st.booleans())
    def move_other(self, **values: Any) -> None:
        self.books.move_other(**values)

    @rule(ms=st.sampled_from([0, 1000, 3 * 3_600_000, 24 * 3_600_000, 100 * 24 * 3_600_000]))
    def wait(self, **values: Any) -> None:
        self.books.wait(**values)

    @rule(state=st.sampled_from(["open", "extended", "closed"]))
    def market(self, **values: Any) -> None:
        self.books.market(**values)

    @rule(amount=st.sampled_from(["1000", "-500"]))
    def pay(self, **values: Any) -> None:
        self.books.pay(**values)

    @invariant()
    def books_are_in_order(self) -> None:
        self.books.check()


Life.TestCase.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
