"""What must hold after any sequence of requests, quotes and time.

Hypothesis draws operations; after each one the engine is compared with what its events alone tell (`follower`), with
brute-force totals, and with its own invariants.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import (
    AccountType,
    Commission,
    CommissionKind,
    Event,
    Level,
    MarketSettings,
    OrderAccepted,
    OrderChanges,
    OrderFilled,
    OrderPartiallyFilled,
    OrderRequest,
    Swap,
    SwapKind,
)
from core.paper_trader.settings import DAY_MS
from tests.unit.paper_trader.bench import MARKET, PAIRS, Bench, dec, listing
from tests.unit.paper_trader.follower import Follower

NAMES = ("EURUSD", "USDJPY", "GBPCHF")
START = {"EURUSD": 110_000, "USDJPY": 150_000, "GBPCHF": 112_000, "GBPUSD": 126_700, "USDCHF": 88_300}
ACCOUNTS: dict[str, dict[str, Any]] = {
    "hedged-usd": {"currency": "USD", "margin_call_levels": (dec(100),)},
    "netted-eur": {"currency": "EUR", "type": AccountType.NETTED},
    "hedged-jpy": {"currency": "JPY", "money_digits": 0, "leverage": dec(30)},
    "netted-usd": {"currency": "USD", "type": AccountType.NETTED, "leverage": dec(500)},
}
DEPOSITS = {"USD": 5_000, "EUR": 5_000, "JPY": 700_000}

accounts = st.sampled_from(sorted(ACCOUNTS))
names = st.sampled_from(NAMES)
sides = st.sampled_from(["buy", "sell"])
units = st.sampled_from([1, 500, 1_000, 3_000, 50_000, 400_000])
offsets = st.integers(-400, 400)  # points from the present price
tifs = st.sampled_from(["gtc", "ioc", "fok", "day", "gtd"])
legs = st.one_of(st.none(), st.integers(1, 300))
depth = st.one_of(st.none(), st.lists(st.integers(0, 3_000), min_size=1, max_size=3))
pick = st.integers(0, 5)

operations = st.one_of(
    st.tuples(st.just("quote"), names, offsets, st.integers(0, 20), depth),
    st.tuples(st.just("rate"), st.sampled_from(["GBPUSD", "USDCHF"]), offsets),
    st.tuples(
        st.just("place"),
        accounts,
        names,
        sides,
        st.sampled_from(["market", "limit", "stop", "stop_limit", "trailing_stop", "market_range"]),
        units,
        offsets,
        tifs,
        legs,
        legs,
        st.booleans(),
        st.one_of(st.none(), pick),
    ),
    st.tuples(st.just("close"), accounts, pick, st.one_of(st.none(), units)),
    st.tuples(st.just("protect"), accounts, pick, legs, legs, st.booleans()),
    st.tuples(st.just("amend"), accounts, pick, offsets, units),
    st.tuples(st.just("cancel"), accounts, pick),
    st.tuples(st.just("cash"), accounts, st.integers(-3_000, 3_000).filter(bool)),
    st.tuples(st.just("leverage"), accounts, st.sampled_from([10, 30, 100, 500])),
    st.tuples(st.just("open"), names, st.booleans()),
    st.tuples(st.just("wait"), st.integers(1, 3 * DAY_MS)),
)


class Stage:
    """Turns drawn operations into engine calls."""

    def __init__(self, seed: int, chance: float) -> None:
        commission = Commission(CommissionKind.PER_MILLION_USD, dec(35))
        per_lot = Commission(CommissionKind.PER_LOT_QUOTE, dec("2.5"), dec("0.1"), "USD")
        swap = Swap(SwapKind.PIPS, dec("-0.6"), dec("0.2"))
        self.bench = Bench(
            listing("EURUSD", commission=commission, swap=swap, max_deal_units=dec(300_000)),
            listing("USDJPY", commission=per_lot, swap=Swap(SwapKind.PERCENT, dec("3"), dec("-4"))),
            listing("GBPUSD"),
            listing("USDCHF"),
            listing(
                "GBPCHF", commission=per_lot, swap=Swap(SwapKind.POINTS, dec("-7"), dec("2")), max_leverage=dec(20)
            ),
            seed=seed,
            market=MarketSettings(partial_fill_chance=chance),
        )
        self.engine = self.bench.engine
        for account_id, terms in ACCOUNTS.items():
            self.bench.open(account_id, DEPOSITS[terms["currency"]], **terms)
        for name in START:
            self.quote(name, 0, 2, None)

    def point(self, name: str) -> Decimal:
        return Decimal(1).scaleb(-PAIRS[name][2])

    def price(self, name: str, offset: int) -> Decimal:
        return (START[name] + offset) * self.point(name)

    def quote(self, name: str, offset: int, spread: int, sizes: list[int] | None) -> list[Event]:
        point, bid = self.point(name), self.price(name, offset)
        ask = bid + spread * point
        if sizes is None:
            return self.bench.quote(bid, ask, name)
        self.bench.tick()
        return self.bench.note(
            self.engine.quote(
                MARKET,
                name,
                self.bench.now_ms,
                bids=[Level(bid - index * point, dec(size)) for index, size in enumerate(sizes)],
                asks=[Level(ask + index * point, dec(size)) for index, size in enumerate(sizes)],
            )
        )

    def run(self, operation: tuple[Any, ...]) -> list[Event]:
        """Each operation names a method here."""
        kind, *rest = operation
        events: list[Event] = getattr(self, kind)(*rest)
        return events

    def rate(self, name: str, offset: int) -> list[Event]:
        return self.quote(name, offset, 3, None)

    def open(self, name: str, is_open: bool) -> list[Event]:
        return self.bench.note(self.engine.set_open(MARKET, name, is_open, self.bench.tick()))

    def wait(self, span_ms: int) -> list[Event]:
        return self.bench.advance(self.bench.now_ms + span_ms)

    def cash(self, account: str, delta: int) -> list[Event]:
        return self.bench.cash(delta, account)

    def leverage(self, account: str, leverage: int) -> list[Event]:
        return self.bench.note(self.engine.change_account(account, self.bench.tick(), leverage=dec(leverage)))

    def close(self, account: str, index: int, amount: int | None) -> list[Event]:
        return self.bench.close(self.position_id(account, index), amount, account)

    def cancel(self, account: str, index: int) -> list[Event]:
        return self.bench.cancel(self.order_id(account, index), account)

    def unlimited(self) -> bool:
        """Whether every book offers without limit, so that nothing can keep a stop-out from closing."""
        books = self.engine._desk.markets[MARKET].books.values()
        return all(level.units is None for book in books for level in (*book.bids, *book.asks))

    def place(
        self,
        account: str,
        name: str,
        side: str,
        type_: str,
        amount: int,
        offset: int,
        tif: str,
        stop: int | None,
        target: int | None,
        trailing: bool,
        tied: int | None,
    ) -> list[Event]:
        point, price = self.point(name), self.price(name, offset)
        extra: dict[str, Any] = {
            "market": {},
            "limit": {"limit_price": price},
            "stop": {"stop_price": price},
            "stop_limit": {"stop_price": price, "slippage_points": abs(offset) % 20},
            "trailing_stop": {"trail_amount": (abs(offset) + 1) * point},
            "market_range": {"base_price": price, "slippage_points": 50},
        }[type_]
        if stop is not None:
            extra |= {"relative_stop_loss": stop * point, "trailing_stop_loss": trailing}
        if target is not None:
            extra["relative_take_profit"] = target * point
        if tif == "gtd":
            extra["expires_at_ms"] = self.bench.now_ms + 100_000
        if tied is not None:
            extra["position_id"] = self.position_id(account, tied)
        return self.bench.place(side, type_, amount, name, account, tif=tif, **extra)

    def protect(self, account: str, index: int, stop: int | None, target: int | None, trailing: bool) -> list[Event]:
        position_id = self.position_id(account, index)
        held = {position.id: position for position in self.engine.positions(account)}.get(position_id)
        if held is None:
            return self.bench.protect(position_id, account=account)
        sign = 1 if held.side is Side.BUY else -1
        point = self.point(held.instrument_id)
        book = self.engine.quote_of(MARKET, held.instrument_id)
        price = (book.bid if sign == 1 else book.ask) or dec(1)
        return self.bench.protect(
            position_id,
            None if stop is None else price - sign * stop * point,
            None if target is None else price + sign * target * point,
            trailing and stop is not None,
            account,
        )

    def amend(self, account: str, index: int, offset: int, amount: int) -> list[Event]:
        order_id = self.order_id(account, index)
        order = self.engine.find_order(account, order_id)
        changes: dict[str, Any] = {"units": amount}
        if order is not None and order.type == "limit":
            changes["limit_price"] = self.price(order.instrument_id, offset)
        elif order is not None and order.type in ("stop", "stop_limit"):
            changes["stop_price"] = self.price(order.instrument_id, offset)
        return self.bench.amend(order_id, account, **changes)

    def position_id(self, account: str, index: int) -> int:
        held = self.engine.positions(account)
        return held[index % len(held)].id if held else 999_999

    def order_id(self, account: str, index: int) -> int:
        orders = self.engine.orders(account, protections=True)
        return orders[index % len(orders)].id if orders else 999_999


@settings(max_examples=120)
@given(st.integers(0, 3), st.sampled_from([0.0, 0.3]), st.lists(operations, min_size=30, max_size=90))
def test_events_alone_tell_the_whole_state(seed: int, chance: float, drawn: list[tuple[Any, ...]]) -> None:
    stage = Stage(seed, chance)
    followers = {account_id: Follower() for account_id in stage.engine.account_ids()}
    for event in stage.bench.trace:
        followers[event.account_id].apply(event)
    for operation in drawn:
        for event in stage.run(operation):
            followers[event.account_id].apply(event)
        for account_id, follower in followers.items():
            check_account(stage, account_id, follower)
    check_triggers(stage)


def check_account(stage: Stage, account_id: str, follower: Follower) -> None:
    engine = stage.engine
    truth = engine.account_truth(account_id)
    assert truth.balance == follower.balance == follower.cash + follower.realised
    assert truth.balance_version == follower.version
    held = {position.id: position for position in engine.positions(account_id)}
    assert set(held) == set(follower.positions)
    for position_id, position in held.items():
        seen = follower.positions[position_id]
        assert (position.units, position.swap, position.commission) == (seen.units, seen.swap, seen.commission)
        assert (position.stop_loss, position.take_profit) == (seen.stop_loss, seen.take_profit)
        assert (position.entry_price, position.side) == (seen.entry_price, seen.side)
        assert position.used_margin == seen.used_margin
    assert {order.id: order for order in engine.orders(account_id)} == follower.orders
    every_order = engine.orders(account_id, protections=True)
    protections = {order.id: order for order in every_order if order.id not in follower.orders}
    assert set(protections) == set(follower.protections)
    for order in protections.values():
        assert order.remaining_units == held[order.position_id or 0].units
    if ACCOUNTS.get(account_id, {}).get("type") is AccountType.NETTED:
        instruments = [position.instrument_id for position in held.values()]
        assert len(instruments) == len(set(instruments))
    assert truth.equity is not None
    assert truth.equity == truth.balance + sum(each.unrealized_pnl or 0 for each in truth.positions)
    assert truth.used_margin == sum(position.used_margin for position in held.values())
    tradable = all(engine.quote_of(MARKET, position.instrument_id).is_open for position in held.values())
    limited = any(order.triggered for order in protections.values())
    if tradable and truth.used_margin and not limited and stage.unlimited():
        level = engine.account(account_id).settings.stop_out_level
        assert truth.equity * 100 > level * truth.used_margin, "a stop-out was missed"


def check_triggers(stage: Stage) -> None:
    """Nothing armed without an owner, and no owner's trigger lost."""
    desk = stage.engine._desk
    armed = sum(len(book.triggers) for book in desk.markets[MARKET].books.values())
    owned = 0
    for account in desk.accounts.values():
        owners = (*account.working.values(), *account.holdings.values())
        triggers = [trigger for owner in owners for trigger in owner.triggers]
        triggers += [trigger for _, trigger in account.margin_watches]
        owned += sum(trigger.armed for trigger in triggers)
        for working in account.working.values():
            assert any(trigger.armed for trigger in working.triggers)
    assert armed == owned


@settings(max_examples=40)
@given(st.integers(0, 3), st.lists(operations, min_size=30, max_size=60))
def test_same_seed_and_calls_give_the_same_trace(seed: int, drawn: list[tuple[Any, ...]]) -> None:
    first, second = Stage(seed, 0.5), Stage(seed, 0.5)
    for operation in drawn:
        first.run(operation)
        second.run(operation)
    assert first.bench.trace == second.bench.trace


@given(
    st.lists(st.integers(0, 2_000), min_size=1, max_size=4),
    st.integers(1, 5_000),
    sides,
    st.sampled_from(["market", "limit"]),
    st.integers(-3, 3),
)
def test_fok_fills_wholly_or_not_at_all(sizes: list[int], amount: int, side: str, type_: str, offset: int) -> None:
    stage = Stage(1, 0.0)
    stage.quote("EURUSD", 0, 2, sizes)
    extra = {} if type_ == "market" else {"limit_price": stage.price("EURUSD", offset)}
    events = stage.bench.place(side, type_, amount, "EURUSD", "hedged-usd", tif="fok", **extra)
    order_id = next(event.order.id for event in events if isinstance(event, OrderAccepted))
    filled = sum(
        event.deal.filled_units
        for event in events
        if isinstance(event, OrderFilled | OrderPartiallyFilled) and event.order.id == order_id
    )
    assert filled in (0, amount)


@settings(max_examples=60)
@given(st.integers(0, 1_000_000), st.lists(st.tuples(names, offsets), min_size=20, max_size=100))
def test_no_stop_out_is_missed_on_any_path(seed: int, path: list[tuple[str, int]]) -> None:
    """Watches may wake too early but never too late: compared with a full valuation after every quote."""
    stage = Stage(seed, 0.0)
    for account_id in ACCOUNTS:
        for name in NAMES:
            side = "buy" if (seed + len(name) + len(account_id)) % 2 else "sell"
            for amount in (400_000, 200_000, 100_000, 30_000, 10_000, 3_000):
                stage.bench.place(side, "market", amount, name, account_id)
    for name, offset in path:
        rates = {"GBPCHF": "USDCHF"}
        stage.quote(name, offset * 8, 2, None)
        stage.quote(rates.get(name, "GBPUSD"), -offset * 4, 2, None)
        for account_id in ACCOUNTS:
            truth = stage.engine.account_truth(account_id)
            assert truth.equity is not None
            assert not truth.used_margin or truth.equity * 100 > 50 * truth.used_margin


absurd = st.one_of(
    st.decimals(), st.integers(-5, 5).map(Decimal), st.sampled_from(["1.1", "1.09", "1000"]).map(Decimal)
)
maybe = st.one_of(st.none(), absurd)


@given(
    st.sampled_from(["market", "limit", "stop", "stop_limit", "trailing_stop", "market_range"]),
    absurd,
    st.lists(maybe, min_size=9, max_size=9),
    st.integers(-(10**30), 10**30),
    tifs,
)
def test_absurd_numbers_are_refused_and_never_raise(
    type_: str, amount: Decimal, numbers: list[Decimal | None], whole: int, tif: str
) -> None:
    stage = Stage(1, 0.0)
    engine, bench = stage.engine, stage.bench
    limit, stop, base, trail, percent, loss, target, near, far = numbers
    request = OrderRequest(
        instrument_id="EURUSD",
        side=Side.BUY,
        type=OrderType(type_),
        units=amount,
        time_in_force=TimeInForce(tif),
        limit_price=limit,
        stop_price=stop,
        base_price=base,
        slippage_points=whole,
        trail_amount=trail,
        trail_percent=percent,
        expires_at_ms=whole,
        stop_loss=loss,
        take_profit=target,
        relative_stop_loss=near,
        relative_take_profit=far,
    )
    engine.place("hedged-usd", request, bench.tick())
    plain = replace(
        request,
        limit_price=None,
        stop_price=None,
        base_price=None,
        slippage_points=None,
        trail_amount=None,
        trail_percent=None,
        expires_at_ms=None,
        type=OrderType.MARKET,
        time_in_force=TimeInForce.GTC,
    )
    engine.place("hedged-usd", plain, bench.tick())
    bench.buy(1000, account="hedged-usd")
    bench.place("buy", "limit", 1000, account="hedged-usd", limit_price="1.0")
    position_id, order_id = stage.position_id("hedged-usd", 0), stage.order_id("hedged-usd", 0)
    engine.protect("hedged-usd", position_id, bench.tick(), stop_loss=loss, take_profit=target)
    engine.amend("hedged-usd", order_id, OrderChanges(units=amount, limit_price=limit or amount), bench.tick())
    engine.close("hedged-usd", position_id, amount, bench.tick())
    with suppress(InvalidInput):
        engine.quote(MARKET, "EURUSD", bench.tick(), bid=amount, ask=limit)
    with suppress(InvalidInput):
        engine.move_cash("hedged-usd", amount, bench.tick())
    stage.quote("EURUSD", 0, 2, None)
    assert engine.account_truth("hedged-usd").equity is not None
