"""Deals that are worked out without the engine are the engine's: the same trades, money, positions and events."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from core.backtester import certain
from core.backtester.costs import commission_of_value, commission_per_lot, relative_spread, slippage_points
from core.backtester.loop import run
from core.backtester.orders import Orders
from core.backtester.settings import BacktestSettings
from core.backtester.strategy import Now, Preparing
from core.backtester.whole import Fills, Size
from core.money import round_money
from core.orders import OrderType, Side
from core.paper_trader import (
    AccountSettings,
    AccountType,
    Commission,
    CommissionKind,
    MarketSettings,
    OrderRequest,
    Slippage,
)
from core.paper_trader.commission import deal_commission
from core.paper_trader.conversion import Converter
from core.paper_trader.matching import slipped
from core.paper_trader.requests import draft_order
from tests.unit.library.backtester.support import listing, random_bars
from tests.unit.library.backtester.test_fast import COMMISSIONS, SLIPPAGES
from tests.unit.library.backtester.test_same_as_every_point import assert_same


@dataclass
class Plain:
    """Buys and sells at the market, closes whole positions; looks at its account and its events at random.

    From `odd_from` on it asks for other things too: levels, parts of positions, positions that are closed already.
    """

    seed: int
    odd_from: int
    looks: float
    log: list[object] = field(default_factory=list)

    def prepare(self, market: Preparing) -> None:
        self.rng = random.Random(self.seed)

    def on_bar(self, now: Now, orders: Orders) -> None:
        rng = self.rng
        if rng.random() < self.looks:
            self.log.append((now.moment, now.positions, now.account, now.orders))
        if rng.random() < self.looks / 20:
            self.log.append((now.moment, now.events))
        for position in now.positions:
            if rng.random() < 0.3:
                orders.close(position)
                if now.moment >= self.odd_from and rng.random() < 0.2:
                    orders.close(position, rng.choice([None, position.units / 2]))
        if rng.random() < 0.3:
            send = rng.choice([orders.buy, orders.sell])
            odd = {"relative_stop_loss": Decimal("0.05")} if now.moment >= self.odd_from and rng.random() < 0.3 else {}
            send("AAA", rng.choice([1, 10, Decimal("0.37"), 200]), label=rng.choice([None, "mine"]), **odd)


def terms(seed: int, commission: int, slippage: int, balance: int) -> BacktestSettings:
    rng = random.Random(seed)
    account = AccountSettings(
        currency="USD",
        leverage=Decimal(rng.choice([5, 30, 200])),
        margin_call_levels=rng.choice([(), (Decimal(300), Decimal(120))]),
        money_digits=rng.choice([2, 2, 8]),
        type=AccountType.HEDGED if rng.random() < 0.9 else AccountType.NETTED,
    )
    given_listing = listing("AAA", "AAA", "USD", 2, commission=COMMISSIONS[commission])
    if rng.random() < 0.3:
        given_listing = replace(given_listing, margin_fraction=Decimal("0.15"))
    return BacktestSettings(
        listings=(given_listing,),
        account=account,
        market=MarketSettings(slippage=SLIPPAGES[slippage]),
        balance=Decimal(balance),
        close_at_end=rng.random() < 0.5,
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    odd_from=st.sampled_from([30, 10**6]),
    looks=st.sampled_from([0.0, 0.3]),
    commission=st.integers(0, len(COMMISSIONS) - 1),
    slippage=st.integers(0, len(SLIPPAGES) - 1),
    balance=st.sampled_from([100, 700, 3_000, 100_000]),
)
def test_all_is_as_the_engine_has_it_when_deals_are_worked_out_without_it(
    seed: int, odd_from: int, looks: float, commission: int, slippage: int, balance: int
) -> None:
    given_terms = terms(seed, commission, slippage, balance)
    data = {"AAA": random_bars("AAA", seed, 90, price=900, digits=2, step=25)}
    quick, slow = Plain(seed, odd_from, looks), Plain(seed, odd_from, looks)
    left, right = run(quick, data, given_terms), run(slow, data, given_terms, exhaustive=True)
    assert_same(left, right)
    assert left.final == right.final
    assert quick.log == slow.log


@dataclass
class Turning:
    """Long and short in turn."""

    every: int = 5

    def prepare(self, market: Preparing) -> None:
        pass

    def on_bar(self, now: Now, orders: Orders) -> None:
        if now.moment % self.every == 0:
            for position in now.positions:
                orders.close(position)
            (orders.buy if now.moment % (2 * self.every) else orders.sell)("AAA", 10)


def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many deals were behind each time that the engine took over."""
    found: list[int] = []
    replay = certain.Certain.replay

    def counted(self: certain.Certain) -> object:
        found.append(len(self.log))
        return replay(self)

    monkeypatch.setattr(certain.Certain, "replay", counted)
    return found


def test_the_engine_is_left_out_to_the_end_when_everything_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = replays(monkeypatch)
    given_terms = terms(1, 1, 0, 100_000)
    result = run(Turning(), {"AAA": random_bars("AAA", 3, 300, price=900, digits=2)}, given_terms)
    assert taken == []
    assert len(result.trades) >= 58


def test_the_engine_takes_over_when_the_account_comes_near_a_margin_call(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = replays(monkeypatch)
    given_terms = replace(
        terms(1, 1, 0, 37),
        account=AccountSettings(currency="USD", leverage=Decimal(5), margin_call_levels=(Decimal(200),)),
    )
    data = {"AAA": random_bars("AAA", 3, 300, price=900, digits=2)}
    result = run(Turning(), data, given_terms)
    assert len(taken) == 1
    assert_same(result, run(Turning(), data, given_terms, exhaustive=True))


@dataclass
class Holding:
    """Opens one position that is large for the account and holds it."""

    side: Side
    units: int
    log: list[object] = field(default_factory=list)

    def prepare(self, market: Preparing) -> None:
        pass

    def on_bar(self, now: Now, orders: Orders) -> None:
        if now.moment == 2:
            (orders.buy if self.side is Side.BUY else orders.sell)("AAA", self.units)
        if now.moment % 7 == 0:
            self.log.append((now.account, now.positions))
        if now.moment > 5 and now.events:  # of the opening deal nobody asks, or that would bring the engine in
            self.log.append((now.moment, now.events))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    side=st.sampled_from(Side),
    units=st.integers(20, 60),
    calls=st.sampled_from([(), (Decimal(150),), (Decimal(90), Decimal(60))]),
)
def test_margin_calls_and_stop_out_come_when_the_engine_sends_them_though_it_was_left_out(
    seed: int, side: Side, units: int, calls: tuple[Decimal, ...]
) -> None:
    account = AccountSettings(currency="USD", leverage=Decimal(5), margin_call_levels=calls)
    given_terms = replace(terms(1, 1, seed % len(SLIPPAGES), 120), account=account, close_at_end=False)
    data = {"AAA": random_bars("AAA", seed, 120, price=900, digits=2, step=30)}
    quick, slow = Holding(side, units), Holding(side, units)
    left, right = run(quick, data, given_terms), run(slow, data, given_terms, exhaustive=True)
    assert_same(left, right)
    assert left.final == right.final
    assert quick.log == slow.log


DIGITS = st.integers(0, 6)


@settings(max_examples=400, deadline=None)
@given(
    units=st.decimals(Decimal("0.01"), 5_000, places=2),
    points=st.integers(1, 10**7),
    rate=st.decimals(0, 2, places=4),
    slippage=st.sampled_from([*SLIPPAGES, Slippage(points=Decimal("1.5"), fraction=Decimal("0.25"))]),
    kind=st.sampled_from(CommissionKind),
    minimum=st.sampled_from([Decimal(0), Decimal("0.025"), Decimal(3)]),
    digits=DIGITS,
    money_digits=DIGITS,
    side=st.sampled_from(Side),
    closing=st.booleans(),
)
@example(  # half a cent, and an even number of cents before it
    units=Decimal("0.5"),
    points=25,
    rate=Decimal(100),
    slippage=SLIPPAGES[0],
    kind=CommissionKind.PERCENT_OF_VALUE,
    minimum=Decimal(0),
    digits=2,
    money_digits=2,
    side=Side.BUY,
    closing=False,
)
def test_prices_charges_and_results_are_the_engines_when_worked_out_in_whole_numbers(
    units: Decimal,
    points: int,
    rate: Decimal,
    slippage: Slippage,
    kind: CommissionKind,
    minimum: Decimal,
    digits: int,
    money_digits: int,
    side: Side,
    closing: bool,
) -> None:
    assume(kind not in (CommissionKind.PER_MILLION_USD, CommissionKind.PER_LOT_USD))
    own = listing("AAA", "AAA", "USD", digits, commission=Commission(kind, rate, minimum))
    account = AccountSettings(currency="USD", money_digits=money_digits)
    given_terms = BacktestSettings(listings=(own,), account=account, market=MarketSettings(slippage=slippage))
    fills = Fills(own, given_terms)
    request = OrderRequest(instrument_id="AAA", side=side, type=OrderType.MARKET, units=units)
    scaled = fills.price(points, buys=side is Side.BUY, closing=closing)
    assume(scaled >= fills.least)
    price = Decimal(scaled).scaleb(-fills.places)
    quote = Decimal(points).scaleb(-digits)
    assert price == slipped(draft_order(request), quote, slippage, digits, closing=closing)
    size = Size(units, own, given_terms, fills.places)
    known = deal_commission(own, units, price, Converter(lambda name: None), "USD", money_digits)
    charge = size.charge(scaled)
    assert -Decimal(charge).scaleb(-money_digits) == known
    move = (price - quote - 3).scaleb(fills.places)
    gain = round_money((price - quote - 3) * units - Decimal(charge).scaleb(-money_digits), money_digits)
    assert Decimal(size.result(int(move), charge)).scaleb(-money_digits) == gain


@pytest.mark.parametrize("side", [Side.BUY, Side.SELL])
def test_a_decision_is_the_engines_when_its_deal_would_be_refused(side: Side) -> None:
    given_terms = replace(terms(2, 0, 3, 200), close_at_end=False)

    class Greedy(Turning):
        def on_bar(self, now: Now, orders: Orders) -> None:
            (orders.buy if side is Side.BUY else orders.sell)("AAA", 7)

    data = {"AAA": random_bars("AAA", 4, 60, price=900, digits=2)}
    result = run(Greedy(), data, given_terms)
    assert result.refusals
    assert_same(result, run(Greedy(), data, given_terms, exhaustive=True))


def test_costs_cover_every_kind_that_is_worked_out() -> None:
    """So that the property above means them all."""
    assert commission_of_value(Decimal("0.0007")) in COMMISSIONS
    assert commission_per_lot(Decimal("0.0013"), minimum=Decimal("0.03")) in COMMISSIONS
    assert {slippage_points(2), relative_spread(Decimal("0.002"))} <= set(SLIPPAGES)
