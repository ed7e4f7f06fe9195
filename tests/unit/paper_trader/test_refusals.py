"""What is refused: the code, the sentence, and that nothing changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.errors import InvalidInput, NotFound
from core.paper_trader import (
    Access,
    AccountChanged,
    AccountSettings,
    Code,
    Level,
    MarketSettings,
    Operation,
    OrderAccepted,
    OrderChanges,
    RequestRejected,
    TradingMode,
)
from tests.unit.paper_trader.bench import MARKET, Bench, dec, kinds, listing, only

LIMITED = {"min_units": 1000, "max_units": 5_000_000, "step_units": 1000}


@pytest.fixture
def bench() -> Bench:
    made = Bench(listing("EURUSD", **LIMITED), listing("GBPUSD"))
    made.quote("1.10000", "1.10010")
    return made


BAD_ORDERS: list[tuple[str, dict[str, Any], Code]] = [
    ("too small", {"units": 500}, Code.TRADING_BAD_VOLUME),
    ("too big", {"units": 6_000_000}, Code.TRADING_BAD_VOLUME),
    ("off step", {"units": 1500}, Code.TRADING_BAD_VOLUME),
    ("zero", {"units": 0}, Code.TRADING_BAD_VOLUME),
    ("negative", {"units": -1000}, Code.TRADING_BAD_VOLUME),
    ("not a number", {"units": "NaN"}, Code.TRADING_BAD_VOLUME),
    ("infinite", {"units": "Infinity"}, Code.TRADING_BAD_VOLUME),
    ("unknown symbol", {"name": "USDJPY"}, Code.SYMBOL_NOT_FOUND),
    ("no quotes", {"name": "GBPUSD"}, Code.NO_QUOTES),
    ("too dear", {"units": 5_000_000}, Code.NOT_ENOUGH_MONEY),
    ("limit missing", {"type_": "limit"}, Code.TRADING_BAD_PRICES),
    ("limit too precise", {"type_": "limit", "limit_price": "1.090001"}, Code.TRADING_BAD_PRICES),
    ("limit negative", {"type_": "limit", "limit_price": "-1"}, Code.TRADING_BAD_PRICES),
    ("limit not a number", {"type_": "limit", "limit_price": "NaN"}, Code.TRADING_BAD_PRICES),
    ("limit on market", {"limit_price": "1.09"}, Code.INVALID_REQUEST),
    ("stop not beyond the ask", {"type_": "stop", "stop_price": "1.10010"}, Code.TRADING_BAD_PRICES),
    ("stop limit without limit", {"type_": "stop_limit", "stop_price": "1.2"}, Code.TRADING_BAD_PRICES),
    (
        "stop limit with both",
        {"type_": "stop_limit", "stop_price": "1.2", "limit_price": "1.2", "slippage_points": 1},
        Code.TRADING_BAD_PRICES,
    ),
    (
        "negative slippage",
        {"type_": "stop_limit", "stop_price": "1.2", "slippage_points": -1},
        Code.TRADING_BAD_PRICES,
    ),
    ("range without base", {"type_": "market_range", "slippage_points": 1, "tif": "ioc"}, Code.TRADING_BAD_PRICES),
    (
        "range that rests",
        {"type_": "market_range", "base_price": "1.1", "slippage_points": 1},
        Code.INVALID_REQUEST,
    ),
    ("trail missing", {"type_": "trailing_stop"}, Code.TRADING_BAD_PRICES),
    ("trail of 100 %", {"type_": "trailing_stop", "trail_percent": 100}, Code.TRADING_BAD_PRICES),
    ("trail without quotes", {"type_": "trailing_stop", "trail_percent": 1, "name": "GBPUSD"}, Code.NO_QUOTES),
    ("gtd without a time", {"type_": "limit", "limit_price": "1", "tif": "gtd"}, Code.TRADING_BAD_EXPIRATION_DATE),
    (
        "gtd in the past",
        {"type_": "limit", "limit_price": "1", "tif": "gtd", "expires_at_ms": 1},
        Code.TRADING_BAD_EXPIRATION_DATE,
    ),
    ("time without gtd", {"type_": "limit", "limit_price": "1", "expires_at_ms": 99}, Code.TRADING_BAD_EXPIRATION_DATE),
    ("market gtd", {"tif": "gtd", "expires_at_ms": 99}, Code.INVALID_REQUEST),
    ("stop loss above a buy", {"stop_loss": "1.2"}, Code.TRADING_BAD_STOPS),
    ("take profit below a buy", {"take_profit": "1.0"}, Code.TRADING_BAD_STOPS),
    ("take profit above a sell", {"side": "sell", "take_profit": "1.2"}, Code.TRADING_BAD_STOPS),
    ("stop loss too precise", {"stop_loss": "1.000001"}, Code.TRADING_BAD_PRICES),
    ("stop loss negative", {"stop_loss": "-1"}, Code.TRADING_BAD_STOPS),
    (
        "stop loss beyond the limit price",
        {"type_": "limit", "limit_price": "1.05", "stop_loss": "1.06"},
        Code.TRADING_BAD_STOPS,
    ),
    ("relative too precise", {"relative_stop_loss": "0.000001"}, Code.TRADING_BAD_STOPS),
    ("relative of zero", {"relative_take_profit": "0"}, Code.TRADING_BAD_STOPS),
    ("both forms", {"relative_stop_loss": "0.01", "stop_loss": "1.05"}, Code.INVALID_REQUEST),
    ("trailing without stop loss", {"trailing_stop_loss": True}, Code.TRADING_BAD_STOPS),
    ("unknown position", {"position_id": 77}, Code.POSITION_NOT_FOUND),
]


@pytest.mark.parametrize(("case", "order", "code"), BAD_ORDERS, ids=[case for case, _, _ in BAD_ORDERS])
def test_bad_order_is_refused_whole(bench: Bench, case: str, order: dict[str, Any], code: Code) -> None:
    before = bench.truth()
    values = {"side": "buy", "type_": "market", "units": 1000, "client_order_id": "c1"} | order
    rejected = only(bench.place(**values), RequestRejected)
    assert (rejected.code, rejected.operation, rejected.client_order_id) == (code, Operation.PLACE, "c1")
    assert rejected.message
    assert bench.truth() == before
    assert bench.engine.finished_orders("a") == ()


def test_price_with_too_many_digits_is_explained_as_the_broker_does(bench: Bench) -> None:
    rejected = only(bench.place("buy", "limit", 1000, limit_price="1.090001"), RequestRejected)
    assert rejected.message == "Order price = 1.090001 has more digits than symbol allows. Allowed 5 digits"


def test_protection_nearer_than_the_listing_allows_is_refused() -> None:
    bench = Bench(listing("EURUSD", min_stop_points=50))
    bench.quote("1.10000", "1.10010")
    near = only(bench.buy(1000, stop_loss="1.09951"), RequestRejected)
    assert near.code is Code.PROTECTION_IS_TOO_CLOSE_TO_MARKET
    assert kinds(bench.buy(1000, stop_loss="1.09950"))[-1] == "ProtectionAccepted"


@pytest.mark.parametrize(
    ("access", "code"),
    [(Access.READ_ONLY, Code.TRADING_NOT_ALLOWED), (Access.DISABLED, Code.RET_ACCOUNT_DISABLED)],
)
def test_every_request_is_refused_when_the_account_may_not_trade(bench: Bench, access: Access, code: Code) -> None:
    bench.buy(1000, stop_loss="1.09")
    order = only(bench.place("buy", "limit", 1000, limit_price="1.05"), OrderAccepted).order
    position_id = bench.position().id
    changed = bench.engine.change_account("a", 50, access=access)
    assert only(changed, AccountChanged).settings.access is access
    for events in (
        bench.buy(1000),
        bench.close(position_id),
        bench.cancel(order.id),
        bench.amend(order.id, limit_price="1.04"),
        bench.protect(position_id, stop_loss="1.08"),
    ):
        assert only(events, RequestRejected).code is code


def test_protection_rests_when_the_account_is_read_only_and_fires_when_it_may_trade_again(bench: Bench) -> None:
    bench.buy(1000, stop_loss="1.09")
    bench.engine.change_account("a", 50, access=Access.READ_ONLY)
    assert bench.quote("1.08", "1.0801") == []
    assert kinds(bench.engine.change_account("a", 60, access=Access.FULL)) == [
        "AccountChanged",
        "OrderFilled",
        "BalanceChanged",
    ]


def test_protection_fires_when_the_account_is_only_barred_from_login(bench: Bench) -> None:
    bench.buy(1000, stop_loss="1.09")
    bench.engine.change_account("a", 50, access=Access.DISABLED)
    assert kinds(bench.quote("1.08", "1.0801")) == ["OrderFilled", "BalanceChanged"]


def test_close_only_account_may_reduce_but_not_open(bench: Bench) -> None:
    bench.buy(2000)
    bench.engine.change_account("a", 50, access=Access.CLOSE_ONLY)
    assert only(bench.buy(1000), RequestRejected).code is Code.TRADING_NOT_ALLOWED
    assert kinds(bench.sell(1000, position_id=bench.position().id))[:2] == ["OrderAccepted", "OrderFilled"]
    assert kinds(bench.close(bench.position().id))[:2] == ["OrderAccepted", "OrderFilled"]


def test_instrument_modes_limit_what_is_taken(bench: Bench) -> None:
    bench.buy(2000)
    bench.place("buy", "limit", 1000, limit_price="1.05")
    terms = bench.engine.listing(MARKET, "EURUSD")

    def mode(value: TradingMode) -> list[str]:
        return kinds(bench.engine.change_listing(MARKET, replace(terms, trading_mode=value), bench.tick()))

    assert mode(TradingMode.CLOSE_ONLY) == []
    assert only(bench.buy(1000), RequestRejected).code is Code.TRADING_DISABLED
    assert kinds(bench.close(bench.position().id, 1000))[1] == "OrderFilled"
    assert bench.quote("1.04", "1.0401") == []  # the limit order would open: it rests
    assert mode(TradingMode.DISABLED) == []
    assert only(bench.close(bench.position().id), RequestRejected).code is Code.TRADING_DISABLED
    assert mode(TradingMode.PENDING_ONLY) == ["OrderFilled"]
    assert only(bench.buy(1000), RequestRejected).code is Code.TRADING_DISABLED


def test_short_selling_is_refused_when_the_listing_forbids_it() -> None:
    bench = Bench(listing("EURUSD", short_selling=False))
    bench.quote("1.1", "1.1001")
    assert only(bench.sell(1000), RequestRejected).code is Code.SHORT_SELLING_NOT_ALLOWED
    bench.buy(1000)
    assert kinds(bench.close(bench.position().id))[1] == "OrderFilled"


def test_closed_market_refuses_what_must_trade_now(bench: Bench) -> None:
    bench.buy(1000)
    bench.engine.set_open(MARKET, "EURUSD", False, 50)
    assert only(bench.buy(1000), RequestRejected).code is Code.MARKET_CLOSED
    assert only(bench.close(bench.position().id), RequestRejected).code is Code.MARKET_CLOSED
    assert only(bench.place("buy", "limit", 1000, limit_price="1.2", tif="ioc"), RequestRejected).code is (
        Code.MARKET_CLOSED
    )
    assert kinds(bench.place("buy", "limit", 1000, limit_price="1.2")) == ["OrderAccepted"]


def test_position_count_is_limited_when_the_account_says_so() -> None:
    bench = Bench(max_positions=1)
    bench.quote("1.1", "1.1001")
    bench.buy(1000)
    assert only(bench.buy(1000), RequestRejected).code is Code.TOO_MANY_POSITIONS
    assert kinds(bench.buy(1000, position_id=bench.position().id))[1] == "OrderFilled"


@pytest.mark.parametrize(
    ("units", "code"),
    [("1500", Code.TRADING_BAD_VOLUME), ("3000", Code.TRADING_BAD_VOLUME), ("NaN", Code.TRADING_BAD_VOLUME)],
)
def test_bad_close_volume_is_refused(bench: Bench, units: str, code: Code) -> None:
    bench.buy(2000)
    rejected = only(bench.close(bench.position().id, units), RequestRejected)
    assert (rejected.code, rejected.operation, rejected.position_id) == (code, Operation.CLOSE, bench.position().id)


def test_tied_order_is_refused_when_it_is_larger_than_its_position_or_of_another_symbol(bench: Bench) -> None:
    bench.buy(2000)
    position_id = bench.position().id
    assert only(bench.sell(3000, position_id=position_id), RequestRejected).code is Code.TRADING_BAD_VOLUME
    assert kinds(bench.buy(3000, position_id=position_id))[1] == "OrderFilled"
    bench.quote("1.25", "1.2501", name="GBPUSD")
    other = only(bench.buy(1000, "GBPUSD", position_id=position_id), RequestRejected)
    assert other.code is Code.INVALID_REQUEST


def test_requests_about_unknown_things_say_which(bench: Bench) -> None:
    assert only(bench.close(9), RequestRejected).message == "Position not found with id 9"
    assert only(bench.protect(9, stop_loss="1"), RequestRejected).code is Code.POSITION_NOT_FOUND
    assert only(bench.amend(9, limit_price="1"), RequestRejected).message == "Order not found with id 9"
    assert only(bench.cancel(9), RequestRejected).order_id == 9


def test_bad_amendments_are_refused_and_leave_the_order(bench: Bench) -> None:
    order = only(bench.place("buy", "limit", 2000, limit_price="1.09"), OrderAccepted).order
    for changes, code in (
        ({}, Code.INVALID_REQUEST),
        ({"limit_price": "1.09"}, Code.INVALID_REQUEST),
        ({"units": 500}, Code.TRADING_BAD_VOLUME),
        ({"limit_price": "1.090001"}, Code.TRADING_BAD_PRICES),
        ({"stop_price": "1.05"}, Code.INVALID_REQUEST),
        ({"stop_loss": "1.2"}, Code.TRADING_BAD_STOPS),
        ({"expires_at_ms": 1}, Code.TRADING_BAD_EXPIRATION_DATE),
    ):
        rejected = only(bench.amend(order.id, **changes), RequestRejected)
        assert (rejected.code, rejected.operation) == (code, Operation.AMEND), changes
    assert bench.engine.orders("a") == (order,)


def test_units_below_what_is_filled_are_refused(bench: Bench) -> None:
    bench.quote(asks=[("1.1001", 2000)])
    order = only(bench.place("buy", "limit", 5000, limit_price="1.1001"), OrderAccepted).order
    assert only(bench.amend(order.id, units=2000), RequestRejected).code is Code.TRADING_BAD_VOLUME
    assert kinds(bench.amend(order.id, units=3000)) == ["OrderReplaced"]


def test_bad_protection_is_refused(bench: Bench) -> None:
    bench.buy(1000)
    position_id = bench.position().id
    assert only(bench.protect(position_id), RequestRejected).message == "Nothing to amend."
    assert only(bench.protect(position_id, stop_loss="1.1"), RequestRejected).code is Code.TRADING_BAD_STOPS
    assert only(bench.protect(position_id, take_profit="1.2", trailing=True), RequestRejected).code is (
        Code.TRADING_BAD_STOPS
    )
    bench.protect(position_id, stop_loss="1.09")
    protection_id = bench.position().protection_order_id
    assert protection_id is not None
    assert only(bench.cancel(protection_id), RequestRejected).code is Code.UNABLE_TO_CANCEL_ORDER


def test_withdrawal_beyond_free_margin_is_refused(bench: Bench) -> None:
    bench.buy(100_000)  # margin 1100, P&L -10
    rejected = only(bench.cash("-8890.01"), RequestRejected)
    assert (rejected.code, rejected.operation) == (Code.NOT_ENOUGH_MONEY, Operation.CASH)
    assert kinds(bench.cash("-8890.00"))[0] == "CashMoved"


def test_bonus_is_kept_apart_from_balance_and_never_negative(bench: Bench) -> None:
    assert kinds(bench.engine.move_bonus("a", dec(50), 50, note="welcome")) == ["BonusMoved"]
    assert only(bench.engine.move_bonus("a", dec(-51), 51), RequestRejected).operation is Operation.BONUS
    truth = bench.truth()
    assert (truth.bonus, truth.balance, truth.equity, truth.balance_version) == (50, 10_000, 10_000, 1)


@pytest.mark.parametrize(
    "prices",
    [
        {"bid": dec("1.2"), "ask": dec("1.1")},
        {"bid": dec("1.2")},
        {"bid": dec("0")},
        {"bid": dec("-1")},
        {"bid": dec("NaN")},
        {"ask": dec("Infinity")},
        {"bid": dec("1.000001")},
        {},
        {"bids": []},
        {"bids": [Level(dec("1.0")), Level(dec("1.05"))]},
        {"asks": [Level(dec("1.2"), dec("-1"))]},
    ],
)
def test_absurd_quotes_raise_and_change_nothing(bench: Bench, prices: dict[str, Any]) -> None:
    before = bench.engine.quote_of(MARKET, "EURUSD")
    with pytest.raises(InvalidInput) as caught:
        bench.engine.quote(MARKET, "EURUSD", 99, **prices)
    assert caught.value.field in ("bid", "ask")
    assert bench.engine.quote_of(MARKET, "EURUSD") == before


@pytest.mark.parametrize("delta", ["0", "0.001", "NaN", "1e20"])
def test_absurd_cash_raises_and_changes_nothing(bench: Bench, delta: str) -> None:
    with pytest.raises(InvalidInput):
        bench.cash(delta)
    assert bench.truth().balance == 10_000


def test_set_up_mistakes_raise(bench: Bench) -> None:
    engine = bench.engine
    with pytest.raises(InvalidInput):
        engine.add_market(MARKET, MarketSettings())
    with pytest.raises(InvalidInput):
        engine.add_listing(MARKET, listing("EURUSD"))
    with pytest.raises(InvalidInput):
        engine.open_account("a", MARKET, AccountSettings(currency="USD"), 1)
    for bad in (
        AccountSettings(currency="USD", leverage=dec(0)),
        AccountSettings(currency="USD", money_digits=9),
        AccountSettings(currency="USD", stop_out_level=dec(-1)),
    ):
        with pytest.raises(InvalidInput):
            engine.open_account("z", MARKET, bad, 1)
    old = engine.listing(MARKET, "EURUSD")
    with pytest.raises(InvalidInput):
        engine.change_listing(MARKET, replace(old, instrument=replace(old.instrument, price_digits=3)), 1)
    for call in (
        lambda: engine.open_account("z", "nowhere", AccountSettings(currency="USD"), 1),
        lambda: engine.quote(MARKET, "nothing", 1, bid=dec(1)),
        lambda: engine.account_truth("nobody"),
        lambda: engine.cancel("nobody", 1, 1),
        lambda: engine.amend("nobody", 1, OrderChanges(), 1),
    ):
        with pytest.raises(NotFound):
            call()
