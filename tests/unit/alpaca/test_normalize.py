"""Alpaca's REST documents: what may be missing, what is unknown, what is absurd."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.alpaca import activities, normalize, orders, updates
from bridge.brokers.alpaca.instruments import AssetClass, Assets
from bridge.brokers.alpaca.reading import Executions, Mark, Reading
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.snapshot import assemble, missing_orders
from bridge.brokers.alpaca.values import UnknownValue
from core.errors import ProtocolViolation
from core.events import Event, OrderChanged, OrderGone
from core.orders import Order, OrderStatus, OrderType, Side
from tests.unit.alpaca.documents import (
    AAPL,
    NOW,
    TIME_MS,
    a_fill,
    a_mirror,
    a_position,
    an_account,
    an_activity,
    an_order,
)

ABSURD = [
    "NaN",
    "Infinity",
    "1e400",
    "9" * 16,
    "0." + "1" * 19,
    "1_000",
    "ten",
    "٣",
    True,
    [],
    {},
    float("nan"),
    10**15,
]


def order_of(event: Event) -> Order:
    assert isinstance(event, OrderChanged)
    return event.order


# ---------------------------------------------------------------- orders


@pytest.mark.parametrize(
    ("status", "filled", "shown"),
    [
        ("new", "0", OrderStatus.WORKING),
        ("new", "1", OrderStatus.PARTIALLY_FILLED),
        ("accepted", "0", OrderStatus.WORKING),
        ("pending_new", "0", OrderStatus.WORKING),
        ("done_for_day", "0", OrderStatus.WORKING),
        ("accepted_for_bidding", "0", OrderStatus.WORKING),
        ("stopped", "0", OrderStatus.WORKING),
        ("suspended", "0", OrderStatus.WORKING),
        ("calculated", "0", OrderStatus.WORKING),
        ("pending_review", "0", OrderStatus.WORKING),
        ("held", "0", OrderStatus.HELD),
        ("partially_filled", "1", OrderStatus.PARTIALLY_FILLED),
        ("pending_cancel", "1", OrderStatus.PENDING_CANCEL),
        ("pending_replace", "0", OrderStatus.PENDING_REPLACE),
    ],
)
def test_each_working_state_is_shown_in_our_words_when_read(status: str, filled: str, shown: OrderStatus) -> None:
    (event,) = orders.order_events(an_order(status=status, filled_qty=filled), Assets(), {})
    assert order_of(event).status is shown


@pytest.mark.parametrize("status", ["filled", "canceled", "expired", "replaced", "rejected"])
def test_an_order_is_gone_when_its_state_is_terminal(status: str) -> None:
    assert orders.order_events({"id": "o1", "status": status}, Assets(), {}, 7) == [OrderGone("o1", 7)]


def test_what_is_known_of_an_order_stays_when_a_document_says_id_and_status_only() -> None:
    assets = Assets()
    known = orders.order(an_order(stop_price="95", filled_qty="4", type="stop_limit"), assets)
    (event,) = orders.order_events({"id": "o1", "status": "pending_cancel"}, assets, {"o1": known})
    now = order_of(event)
    assert now.status is OrderStatus.PENDING_CANCEL
    known.status = OrderStatus.PENDING_CANCEL
    assert (now, now.updated_at_ms) == (known, TIME_MS)


def test_a_price_is_taken_away_when_a_document_says_null() -> None:
    known = orders.order(an_order(stop_price="95"), Assets())
    order = orders.order(an_order(stop_price=None), Assets(), known)
    assert (known.stop_price, order.stop_price) == (Decimal(95), None)


@pytest.mark.parametrize("field", ["status", "type", "side"])
@pytest.mark.parametrize("word", ["as_yet_unheard_of", "", None, 7, []])
def test_an_order_is_refused_when_one_of_its_words_is_unknown(field: str, word: object) -> None:
    with pytest.raises(ProtocolViolation):
        orders.order_events(an_order(**{field: word}), Assets(), {})
    if isinstance(word, str) and word:
        with pytest.raises(UnknownValue):
            orders.order_events(an_order(**{field: word}), Assets(), {})


@pytest.mark.parametrize("field", ["qty", "filled_qty", "limit_price", "stop_price"])
@pytest.mark.parametrize("value", [*ABSURD, "-1"])
def test_an_order_is_refused_when_a_number_is_absurd(field: str, value: object) -> None:
    with pytest.raises(ProtocolViolation):
        orders.order_events(an_order(**{field: value}), Assets(), {})


@pytest.mark.parametrize("value", ["yesterday", "1970-01-01T00:00:00Z", 5, "2026-11-20"])
def test_an_order_is_refused_when_a_time_is_absurd(value: object) -> None:
    with pytest.raises(ProtocolViolation):
        orders.order_events(an_order(updated_at=value), Assets(), {})


def test_an_order_is_refused_when_nothing_says_its_quantity() -> None:
    with pytest.raises(ProtocolViolation):
        orders.order_events(an_order(qty=None), Assets(), {})


def test_json_numbers_are_taken_when_they_come_instead_of_text() -> None:
    order = orders.order(an_order(qty=10, limit_price=100.123), Assets())
    assert (order.units, order.limit_price) == (Decimal(10), Decimal("100.123"))


# ---------------------------------------------------------------- positions, account, assets


@pytest.mark.parametrize("field", ["qty", "avg_entry_price", "cost_basis", "current_price"])
@pytest.mark.parametrize("value", ABSURD)
def test_a_position_is_refused_when_a_number_is_absurd(field: str, value: object) -> None:
    with pytest.raises(ProtocolViolation):
        normalize.position(a_position(**{field: value}), Assets())


@pytest.mark.parametrize("fields", [{"side": "sideways"}, {"qty": "-4"}, {"qty": None}, {"avg_entry_price": "-1"}])
def test_a_position_is_refused_when_it_contradicts_itself(fields: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation):
        normalize.position(a_position(**fields), Assets())


def test_a_position_is_found_by_its_symbol_when_it_has_no_asset_id() -> None:
    assets = Assets()
    assets.of_asset({"id": "btc", "class": "crypto", "symbol": "BTC/USD", "price_increment": "1"})
    source = a_position(symbol="BTCUSD", asset_class="crypto")
    del source["asset_id"]
    held = normalize.position(source, assets)
    assert held is not None
    assert held.instrument_id == "btc"


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ({}, True),
        ({"status": "PAPER_ONLY"}, True),
        ({"status": "ACCOUNT_UPDATED"}, False),
        ({"status": "AS_YET_UNHEARD_OF"}, False),
        ({"status": None}, False),
        ({"trading_blocked": True}, False),
        ({"account_blocked": True}, False),
        ({"trade_suspended_by_user": True}, False),
        ({"trading_blocked": False, "account_blocked": None}, True),
    ],
)
def test_an_account_may_trade_when_it_is_active_and_nothing_halts_it(fields: dict[str, Any], may: bool) -> None:
    assert normalize.account(an_account(**fields))[0].can_trade is may


@pytest.mark.parametrize("field", ["cash", "multiplier", "initial_margin"])
@pytest.mark.parametrize("value", ABSURD)
def test_an_account_is_refused_when_a_number_is_absurd(field: str, value: object) -> None:
    with pytest.raises(ProtocolViolation):
        normalize.account(an_account(**{field: value}))


def test_an_account_has_no_balance_when_it_says_no_cash() -> None:
    settings, balance = normalize.account({"id": "x", "status": "ACTIVE"})
    assert balance is None
    assert (settings.currency, settings.leverage, settings.used_margin, settings.login) == (None, None, None, None)


@pytest.mark.parametrize(("status", "closed"), [("ACCOUNT_CLOSED", True), ("REJECTED", True), ("ACTIVE", False)])
def test_an_account_is_closed_when_its_state_says_so(status: str, closed: bool) -> None:
    assert normalize.closed(an_account(status=status)) is closed


def test_crypto_has_its_slash_when_an_order_names_it_before_its_asset_is_read() -> None:
    assets = Assets()
    normalize.position(a_position(asset_id="btc", symbol="BTCUSD", asset_class="crypto"), assets)
    held = assets.catalogue.instruments["btc"]
    assert (held.name, held.base_asset, held.quote_asset, held.price_digits) == ("BTCUSD", "BTC", "USD", 9)
    orders.order(an_order(asset_id="btc", symbol="BTC/USD", asset_class="crypto"), assets)
    assert assets.stream_symbol("btc") == "BTC/USD"
    assert assets.undescribed(["btc"]) == ["btc"]
    document = {"id": "btc", "class": "crypto", "symbol": "BTC/USD", "price_increment": "0.0100"}
    made = assets.of_asset(document | {"min_order_size": "0.0001", "min_trade_increment": "0.000000001"})
    assert (made.price_digits, made.min_units, made.step_units) == (2, Decimal("0.0001"), Decimal("0.000000001"))
    normalize.position(a_position(asset_id="btc", symbol="BTCUSD", asset_class="crypto"), assets)
    assert assets.catalogue.instruments["btc"] is made
    assert (assets.undescribed(["btc"]), assets.id_of_symbol("BTCUSD"), assets.id_of_symbol("BTC/USD")) == (
        [],
        "btc",
        "btc",
    )


@pytest.mark.parametrize(
    ("fields", "kind", "multiplier"),
    [
        ({}, AssetClass.EQUITY, 1),
        ({"asset_class": None, "symbol": "AAPL261218C00200000"}, AssetClass.OPTION, 100),
        ({"asset_class": "us_option", "symbol": "SPY1 261218P00200000"}, AssetClass.OPTION, 100),
        ({"asset_class": None, "symbol": "ETH/USD"}, AssetClass.CRYPTO, 1),
        ({"asset_class": "moon_rocks"}, AssetClass.OTHER, 1),
    ],
)
def test_the_class_of_an_asset_is_known_when_its_document_or_symbol_shows_it(
    fields: dict[str, Any], kind: AssetClass, multiplier: int
) -> None:
    assets = Assets()
    instrument = assets.of_holding(a_position(**fields))
    assert (assets.asset_class(instrument.id), instrument.multiplier) == (kind, multiplier)


def test_price_digits_follow_the_price_when_a_stock_crosses_a_dollar() -> None:
    assets = Assets()
    for now, digits in (("0.99", 4), ("1.00", 2), ("0.5", 4)):
        normalize.prices([a_position(current_price=now)], assets)
        assert assets.catalogue.instruments[AAPL].price_digits == digits


# ---------------------------------------------------------------- whole readings


def test_an_order_of_an_unknown_kind_is_left_out_and_counted_when_a_reading_has_one() -> None:
    assets = Assets()
    mirror = a_mirror(assets)
    orders = (an_order(), an_order(id="o2", type="as_yet_unheard_of"), an_order(id="o3", status="dreaming"))
    reading = Reading(an_account(), (a_position(),), orders, (), Mark(0, NOW, NOW))
    made = assemble(reading, mirror, assets, Executions(AlpacaSettings()))
    assert [order.id for order in made.snapshot.orders] == ["o1"]
    assert made.left_out == 2
    assert made.prices == {AAPL: 101_500_000_000}
    mirror.orders = {key: Order(key, AAPL, Side.BUY, OrderType.LIMIT, Decimal(1)) for key in ("o1", "o3", "o4")}
    assert missing_orders(reading, mirror) == ["o4"]


@pytest.mark.parametrize(
    "part", [{"orders": (an_order(qty="NaN"),)}, {"positions": (a_position(qty=None),)}, {"account": {"cash": "NaN"}}]
)
def test_a_reading_is_refused_whole_when_a_part_of_it_is_absurd(part: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"account": an_account(), "positions": (), "orders": (), "fills": ()} | part
    assets = Assets()
    with pytest.raises(ProtocolViolation):
        assemble(Reading(mark=Mark(0, NOW, NOW), **fields), a_mirror(assets), assets, Executions(AlpacaSettings()))


# ---------------------------------------------------------------- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
SEEDS = [an_order(legs=[an_order(id="l")]), a_position(), an_account(), an_activity("e"), a_fill()]
FIELDS = sorted({name for seed in SEEDS for name in seed} | {"position_qtys", "event", "order", "class", "notional"})


@st.composite
def spoiled(draw: st.DrawFn) -> Any:
    """A document with some of its fields replaced by anything, or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(JSON)
    document = dict(draw(st.sampled_from(SEEDS)))
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=4)):
        document[name] = draw(JSON | st.sampled_from(["mleg", "fill", "1", [an_order()], an_order(order_class="mleg")]))
    return document


@given(spoiled())
def test_nothing_but_a_protocol_violation_is_raised_when_a_document_is_anything(document: Any) -> None:
    assets = Assets()
    mirror = a_mirror(assets)
    mirror.balance = Decimal(1)

    def update() -> object:
        return updates.facts(updates.read(document), mirror, assets, lambda _: False)

    tries = [update]
    if isinstance(document, dict):
        tries += [
            lambda: orders.order_events(document, assets, {}),
            lambda: normalize.position(document, assets),
            lambda: normalize.prices([document], assets),
            lambda: normalize.account(document),
            lambda: activities.read_activity(document),
            lambda: assets.of_asset(document),
            lambda: normalize.account_id(document),
            lambda: normalize.closed(document),
        ]
    for attempt in tries:
        try:
            attempt()
        except ProtocolViolation:
            continue
