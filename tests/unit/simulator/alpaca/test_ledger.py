"""Cash, positions and margins by hand: every number was worked out on paper from reference/alpaca.md §1.3 and §8.3."""

from __future__ import annotations

import pytest

from bridge.simulator.alpaca.accounts.ledger import Ledger
from bridge.simulator.alpaca.market.catalogue import Catalogue
from tests.unit.simulator.alpaca.house import CALL, House, Refused, dec

AAPL = Catalogue().find("AAPL")


@pytest.fixture
def house() -> House:
    made = House()
    made.quote("AAPL", "200")
    return made


def test_average_and_cost_follow_buys_and_sells() -> None:
    assert AAPL is not None
    ledger = Ledger(cash=dec(10_000))
    ledger.fill(AAPL, dec(10), dec("200"))
    ledger.fill(AAPL, dec(5), dec("230"))
    held = ledger.holdings[AAPL.id]
    assert (ledger.cash, held.qty, held.cost, held.avg_entry_price) == (6850, 15, 3150, 210)
    ledger.fill(AAPL, dec(-6), dec("250"))
    assert (ledger.cash, held.qty, held.cost, held.avg_entry_price) == (8350, 9, 1890, 210)
    ledger.fill(AAPL, dec(-9), dec("100"))
    assert (ledger.cash, ledger.holdings) == (9250, {})


def test_position_starts_anew_when_a_fill_goes_through_zero() -> None:
    assert AAPL is not None
    ledger = Ledger()
    ledger.fill(AAPL, dec(-4), dec("200"))
    ledger.fill(AAPL, dec(10), dec("190"))
    held = ledger.holdings[AAPL.id]
    assert (ledger.cash, held.qty, held.cost, held.avg_entry_price) == (800 - 1900, 6, 1140, 190)


def test_account_and_position_when_long_on_margin(house: House) -> None:
    house.place(qty=600)  # 120,000 of 100,000 cash
    house.quote("AAPL", "210")
    row, held = house.document(), house.position()
    assert (row["cash"], row["equity"], row["long_market_value"]) == ("-20000", "106000", "126000")
    assert (row["initial_margin"], row["maintenance_margin"]) == ("63000", "37800")
    assert (row["multiplier"], row["regt_buying_power"]) == ("4", "86000")
    assert row["buying_power"] == "274000"  # 4 x 100,000 of yesterday - 126,000 opened since
    assert row["non_marginable_buying_power"] == "0"
    assert (held["qty"], held["side"], held["avg_entry_price"], held["cost_basis"]) == ("600", "long", "200", "120000")
    assert (held["market_value"], held["unrealized_pl"], held["unrealized_plpc"]) == ("126000", "6000", "0.05")


def test_buying_power_is_twice_what_is_free_when_the_multiplier_is_two(house: House) -> None:
    house.world.configure(house.account, {"max_margin_multiplier": "2"}, house.now_ms)
    assert house.document()["buying_power"] == "200000"
    house.place(qty=100)
    assert house.document()["buying_power"] == "180000"  # (100,000 - 10,000) x 2
    house.limit("AAPL", 100, "buy", "150")
    assert house.document()["buying_power"] == "165000"  # 15,000 reserved
    with Refused(40310000, "insufficient buying power") as refused:
        house.limit("AAPL", 1101, "buy", "150")
    assert refused.extra == {"buying_power": "165000", "cost_basis": "165150"}
    house.limit("AAPL", 1100, "buy", "150")
    assert house.document()["buying_power"] == "0"


def test_buying_power_is_cash_when_the_multiplier_is_one(house: House) -> None:
    house.world.configure(house.account, {"max_margin_multiplier": "1"}, house.now_ms)
    house.place(qty=100)
    row = house.document()
    assert (row["buying_power"], row["initial_margin"], row["shorting_enabled"]) == ("80000", "20000", False)
    with Refused(40310000, "not allowed to short"):
        house.place("MSFT", 1, "sell")


def test_market_buy_reserves_a_collar_above_the_ask(house: House) -> None:
    house.world.set_market("closed", house.now_ms)
    house.place(qty=100)  # 200 x 1.025 x 100
    assert house.document()["buying_power"] == str(400_000 - 20_500)
    house.quote("F", "10")
    house.place("F", 100)  # 10 x 1.04 x 100
    assert house.document()["buying_power"] == str(400_000 - 20_500 - 1_040)


def test_short_position_has_negative_figures(house: House) -> None:
    house.place(qty=50, side="sell")
    house.quote("AAPL", "190")
    row, held = house.document(), house.position()
    assert (row["cash"], row["equity"], row["short_market_value"]) == ("110000", "100500", "-9500")
    assert (row["initial_margin"], row["maintenance_margin"]) == ("4750", "2850")
    assert (held["qty"], held["side"], held["qty_available"]) == ("-50", "short", "-50")
    assert (held["cost_basis"], held["market_value"], held["unrealized_pl"]) == ("-10000", "-9500", "500")
    assert held["unrealized_plpc"] == "0.05"
    assert house.world.activities(house.account, {}, "FILL")[0]["side"] == "sell_short"


def test_option_costs_a_hundred_times_its_price_and_is_fully_paid(house: House) -> None:
    house.quote(CALL, "10")
    house.place(CALL, 3)
    house.quote(CALL, "12")
    row, held = house.document(), house.position(CALL)
    assert (row["cash"], row["equity"], row["initial_margin"]) == ("97000", "100600", "3600")
    assert (held["avg_entry_price"], held["cost_basis"], held["market_value"]) == ("10", "3000", "3600")
    assert row["options_buying_power"] == "97000"
    with Refused(40310000, "insufficient options buying power"):
        house.place(CALL, 80)


def test_crypto_fee_is_taken_in_what_is_received(house: House) -> None:
    house.quote("BTC/USD", "100000")
    order = house.place("BTCUSD", "0.5", time_in_force="gtc")
    assert house.updates[-1][1]["position_qty"] == "0.49875"  # 0.5 - 0.25 %
    assert house.order(order)["filled_qty"] == "0.5"
    held = house.position("BTCUSD")
    assert (held["symbol"], held["qty"], held["avg_entry_price"], held["cost_basis"]) == (
        "BTCUSD", "0.49875", "100000", "49875",
    )  # fmt: skip
    assert house.document()["cash"] == "50000"
    house.place("BTC/USD", "0.2", "sell", time_in_force="gtc")
    assert house.document()["cash"] == "69950"  # 20,000 - 50
    fees = house.world.activities(house.account, {}, "CFEE")
    assert [(row["net_amount"], row["qty"]) for row in fees] == [("-50", None), ("0", "-0.00125")]


def test_truth_has_the_records_fields(house: House) -> None:
    house.place(qty=7)
    house.limit("MSFT", 2, "buy", "100.5", time_in_force="gtc")
    house.quote("AAPL", "201.11")
    truth = house.world.truth(house.account)
    assert (truth["balance"], truth["equity"], truth["unrealizedPnl"]) == (98600, 100007.77, 7.77)
    assert (truth["usedMargin"], truth["freeMargin"], truth["marginLevel"]) == (
        703.88,
        99303.89,
        14208.07,
    )  # 703.885 half-even
    held, order = truth["positions"][0], truth["orders"][0]
    assert (held["symbol"], held["side"], held["units"], held["entryPrice"], held["currentPrice"]) == (
        "AAPL", "buy", 7, 200, 201.11,
    )  # fmt: skip
    assert (order["symbol"], order["type"], order["limitPrice"], order["status"]) == ("MSFT", "limit", 100.5, "working")
    assert (truth["login"], truth["environment"], truth["leverage"]) == ("PA10000001", "demo", 4)


def test_yesterday_begins_at_the_close(house: House) -> None:
    house.place(qty=10)
    house.quote("AAPL", "210")
    house.world.end_session(house.now_ms)
    house.quote("AAPL", "220")
    house.place(qty=10)
    house.quote("AAPL", "221")
    held, row = house.position(), house.document()
    assert (held["unrealized_pl"], held["unrealized_intraday_pl"]) == ("220", "120")  # 11 x 10 + 1 x 10
    assert (held["lastday_price"], held["change_today"]) == ("210", "0.052380952")
    assert (row["last_equity"], row["last_maintenance_margin"]) == ("100100", "630")
    # 4 x (100,100 - 630) less the 4,420 held now that were 2,100 at the close.
    assert row["buying_power"] == str(4 * (100_100 - 630) - 2_320)


def test_margin_ends_below_two_thousand_dollars(house: House) -> None:
    house.world.deposit(house.account, dec(-98_001), house.now_ms)
    row = house.document()
    assert (row["multiplier"], row["buying_power"]) == ("1", "1999")
    with Refused(40310000, "not allowed to short"):
        house.place(qty=1, side="sell")


def test_deposit_and_withdrawal_are_activities(house: House) -> None:
    house.world.deposit(house.account, dec("12.50"), house.now_ms)
    house.world.deposit(house.account, dec("-2"), house.now_ms)
    house.world.pay(house.account, "DIV", dec("0.24"), house.now_ms, "AAPL")
    rows = house.world.activities(house.account, {"category": "non_trade_activity", "direction": "asc"})
    assert [(row["activity_type"], row["net_amount"]) for row in rows] == [
        ("CSD", "100000"), ("CSD", "12.5"), ("CSW", "-2"), ("DIV", "0.24"),
    ]  # fmt: skip
    assert house.document()["cash"] == "100010.74"
