"""Lists, activities, closing positions, history, calendar, assets and contracts as REST shows them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from bridge.simulator.alpaca.stamps import activity_id, eastern_text, micro_text, read_time, utc_text
from core.errors import InvalidInput, NotFound
from tests.unit.simulator.alpaca.house import CALL, START_MS, House, Refused, dec


@pytest.fixture
def house() -> House:
    made = House()
    made.quote("AAPL", "200")
    return made


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def test_orders_are_filtered_sorted_and_paged(house: House) -> None:
    one = house.limit("AAPL", 1, "buy", "150")
    two = house.limit("MSFT", 1, "buy", "150")
    three = house.place("BTC/USD", "0.01", time_in_force="gtc")

    def ask(**query: str) -> list[str]:
        return ids(house.world.orders(house.account, query))

    assert ask() == [two["id"], one["id"]]
    assert ask(status="closed") == [three["id"]]
    assert ask(status="all", direction="asc") == [one["id"], two["id"], three["id"]]
    assert ask(status="all", limit="1") == [three["id"]]
    assert ask(status="all", symbols="MSFT,BTCUSD") == [three["id"], two["id"]]
    assert ask(status="all", asset_class="crypto") == [three["id"]]
    assert ask(side="sell") == []
    assert ask(after=one["submitted_at"]) == [two["id"]]
    assert ask(until=two["submitted_at"]) == [one["id"]]
    assert ask(status="all", before_order_id=three["id"]) == [two["id"], one["id"]]
    assert ask(status="all", after_order_id=one["id"], direction="asc") == [two["id"], three["id"]]
    for query in ({"status": "odd"}, {"limit": "501"}, {"limit": "0"}, {"after": "x"}, {"before_order_id": "x"}):
        with Refused(40010001, ""):
            ask(**query)
    with Refused(40410000, "order not found"):
        house.world.order(house.account, "x")


def test_activities_are_filtered_and_paged(house: House) -> None:
    for _ in range(3):
        house.place(qty=1)
        house.advance(60_000)

    def ask(kind: str | None = None, **query: str) -> list[dict[str, Any]]:
        return house.world.activities(house.account, query, kind)

    fills = ask("FILL", direction="asc")
    told = [payload["execution_id"] for _, payload in house.updates if payload["event"] == "fill"]
    assert [row["id"].partition("::")[2] for row in fills] == told
    assert ask("fill") == fills[::-1]
    assert ids(ask(activity_types="CSD,FILL", direction="asc"))[1:] == ids(fills)
    assert ids(ask("FILL", direction="asc", page_size="2")) == ids(fills[:2])
    assert ids(ask("FILL", direction="asc", page_token=fills[1]["id"])) == ids(fills[2:])
    assert ids(ask("FILL", page_token=fills[1]["id"])) == ids(fills[:1])
    assert ids(ask("FILL", after="2026-11-18T11:07:40Z")) == ids(fills[:0:-1])
    assert ids(ask(category="trade_activity", until="2026-11-18T06:07:40-05:00")) == ids(fills[:1])
    assert ask(date="2026-11-17") == []
    for query in (
        {"page_size": "101"},
        {"page_token": "x"},
        {"category": "x"},
        {"date": "2026-11-18", "after": "soon"},
    ):
        with Refused(40010001, ""):
            ask(**query)


def test_times_are_printed_as_each_surface_prints_them() -> None:
    at_ns = START_MS * 1_000_000 + 7_654_321
    assert utc_text(at_ns) == "2026-11-18T11:06:40.007654321Z"
    assert eastern_text(at_ns) == "2026-11-18T06:06:40.007654321-05:00"
    assert micro_text(at_ns) == "2026-11-18T11:06:40.007654Z"
    assert micro_text(at_ns + 200) == "2026-11-18T11:06:40.007655Z"  # rounded, not cut
    assert activity_id(at_ns, "u") == "20261118060640007::u"
    for text in (utc_text(at_ns), eastern_text(at_ns)):
        assert read_time(text, "after") == at_ns
    assert read_time("2026-11-18", "after") == START_MS * 1_000_000 - (6 * 3600 + 400) * 10**9


@pytest.mark.parametrize(
    ("query", "left"), [({}, None), ({"qty": "3"}, "7"), ({"percentage": "25"}, "7.5"), ({"percentage": "100"}, None)]
)
def test_position_is_closed_by_a_market_order(house: House, query: dict[str, str], left: str | None) -> None:
    house.place(qty=10)
    order = house.world.close_position(house.account, "AAPL", query, house.now_ms)
    assert (order["side"], order["type"], order["position_intent"]) == ("sell", "market", "sell_to_close")
    assert [row["qty"] for row in house.world.positions(house.account)] == ([] if left is None else [left])


def test_closing_is_refused_when_there_is_nothing_or_too_much(house: House) -> None:
    with Refused(40410000, "position does not exist"):
        house.world.close_position(house.account, "AAPL", {}, house.now_ms)
    house.place(qty=10)
    with Refused(40310000, "requested: 11, available: 10"):
        house.world.close_position(house.account, "AAPL", {"qty": "11"}, house.now_ms)
    with Refused(40010001, "only one"):
        house.world.close_position(house.account, "AAPL", {"qty": "1", "percentage": "1"}, house.now_ms)
    with Refused(40010001, "between 0 and 100"):
        house.world.close_position(house.account, "AAPL", {"percentage": "101"}, house.now_ms)


def test_everything_is_closed_once_its_orders_are_canceled(house: House) -> None:
    house.bracket(10, profit="220", loss="190")
    house.place("MSFT", 5, "sell")
    waiting = house.limit("F", 1, "buy", "5")
    house.replace(waiting, limit_price="6")
    rows = house.world.close_all(house.account, False, house.now_ms)
    assert [(row["symbol"], row["status"]) for row in rows] == [("AAPL", 403), ("MSFT", 200)]
    assert rows[0]["body"]["code"] == 40310000
    rows = house.world.close_all(house.account, True, house.now_ms)
    assert [(row["symbol"], row["status"]) for row in rows] == [("AAPL", 200)]
    assert (house.world.positions(house.account), house.account.open_orders) == ([], {})


def test_all_orders_are_canceled(house: House) -> None:
    order = house.bracket(10, profit="220", loss="190", type="limit", limit_price="195")
    rows = house.world.cancel_all(house.account, house.now_ms)
    assert rows == [{"id": each["id"], "status": 200} for each in (order, *order["legs"])]
    house.advance()
    assert house.world.orders(house.account, {}) == []


def test_copy_of_an_account_shows_an_older_state(house: House) -> None:
    house.place(qty=10)
    older = copy.deepcopy(house.account)
    house.place(qty=5)
    house.limit("MSFT", 1, "buy", "100")
    assert house.world.positions(older)[0]["qty"] == "10"
    assert house.world.account_document(older)["cash"] == "98000"
    assert house.world.orders(older, {}) == []
    assert len(house.world.activities(older, {}, "FILL")) == 1


def test_option_instructions_are_for_holders(house: House) -> None:
    with Refused(40410000, ""):
        house.world.exercise(house.account, CALL, house.now_ms)
    house.place(qty=1)
    with Refused(42210000, "option"):
        house.world.exercise(house.account, "AAPL", house.now_ms)
    house.place(CALL, 1)
    assert house.world.do_not_exercise(house.account, CALL, house.now_ms) == {}


def test_configurations_change_as_asked_or_not_at_all(house: House) -> None:
    row = house.world.configure(house.account, {"no_shorting": True, "max_margin_multiplier": 2}, house.now_ms)
    assert (row["no_shorting"], row["max_margin_multiplier"]) == (True, "2")
    for body in ({"max_margin_multiplier": "3"}, {"odd": 1}, {"no_shorting": "maybe"}):
        with Refused(40010001, ""):
            house.world.configure(house.account, body, house.now_ms)
    assert house.world.configurations(house.account) == row


def test_portfolio_history_counts_profit_from_what_was_paid_in(house: House) -> None:
    house.place(qty=100)
    house.quote("AAPL", "210")
    house.advance(60_000)
    row = house.world.portfolio_history(house.account, {"timeframe": "1Min", "period": "1D"}, house.now_ms)
    assert (row["equity"], row["profit_loss"], row["profit_loss_pct"]) == (
        [100000.0, 101000.0],
        [0.0, 1000.0],
        [0.0, 0.01],
    )
    assert (row["timestamp"], row["base_value"]) == ([START_MS // 60_000 * 60, START_MS // 60_000 * 60 + 60], 100000.0)
    with Refused(40010001, "timeframe"):
        house.world.portfolio_history(house.account, {"timeframe": "2Min"}, house.now_ms)


def test_clock_and_calendar_know_the_sessions(house: House) -> None:
    row = house.world.clock(house.now_ms)
    assert row == {
        "timestamp": "2026-11-18T06:06:40-05:00",
        "is_open": True,
        "next_open": "2026-11-18T09:30:00-05:00",
        "next_close": "2026-11-18T16:00:00-05:00",
    }
    days = house.world.calendar({"start": "2026-11-20", "end": "2026-11-23"}, house.now_ms)
    assert [(day["date"], day["settlement_date"]) for day in days] == [
        ("2026-11-20", "2026-11-23"), ("2026-11-23", "2026-11-24"),
    ]  # fmt: skip


def test_assets_are_found_by_every_name(house: House) -> None:
    rows = house.world.assets({})
    assert rows[0]["symbol"] == "AAPL"
    assert not any("350119" in row["symbol"] for row in rows)
    coin = house.world.asset("BTCUSD")
    assert coin == house.world.asset("BTC/USD") == house.world.asset(coin["id"])
    assert [row["symbol"] for row in house.world.assets({"asset_class": "crypto"})] == [
        "BTC/USD",
        "ETH/USD",
        "DOGE/USD",
    ]
    with Refused(40410000, "asset not found"):
        house.world.asset("NOPE")
    page = house.world.option_contracts({"underlying_symbols": "AAPL", "limit": "2"})
    assert (len(page["option_contracts"]), page["next_page_token"]) == (2, "2")
    assert house.world.option_contract(CALL)["expiration_date"] == "2035-01-19"


def test_users_have_their_accounts() -> None:
    world = House().world
    assert [(a.environment, a.number) for a in world.of_user[1]] == [("paper", "PA10000001"), ("live", "10000001")]
    assert [a.environment for a in world.of_user[2]] == ["paper"]
    assert set(world.accounts) == set(House(seed=9).world.accounts)
    assert world.account_document(world.of_user[1][1])["cash"] == "50000"
    with pytest.raises(NotFound):
        world.account("x")


def test_prices_walk_alike_for_the_same_seed_and_are_printed() -> None:
    houses = [House(seed=4, prices="walk") for _ in range(2)]
    for house in houses:
        ticks: list[Any] = []
        house.world.prices.on_tick = ticks.append
        for _ in range(40):
            house.world.prices.step(house.now_ms)
        assert len(ticks) > 40
        assert all(tick.bid <= tick.price <= tick.ask for tick in ticks)
    quotes = [[house.world.prices.quote(s) for s in ("AAPL", "BTC/USD", CALL, "PENY")] for house in houses]
    assert quotes[0] == quotes[1]


def test_recording_is_replayed(tmp_path: Any) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("time_ms,symbol,bid,ask\n1000,AAPL,10,10.02\n1250,BTCUSD,5,6\n9000,AAPL,11,11.02\n")
    house = House(prices=str(file))
    house.world.prices.step(house.now_ms)
    assert (house.world.prices.quote("AAPL").bid, house.world.prices.quote("BTC/USD").price) == (10, dec("5.5"))
    file.write_text("1,NOPE,1,2\n")
    with pytest.raises(InvalidInput):
        House(prices=str(file))


def test_absurd_quotes_are_refused(house: House) -> None:
    for kwargs in ({"bid": "0"}, {"bid": "10.001"}, {"bid": "NaN"}, {"bid": "11", "ask": "10"}, {}):
        with pytest.raises(InvalidInput):
            house.world.set_quote("AAPL", house.now_ms, **{name: dec(value) for name, value in kwargs.items()})
    with pytest.raises(NotFound):
        house.quote("NOPE", "1")
    assert house.world.prices.quote("AAPL").price == 200
