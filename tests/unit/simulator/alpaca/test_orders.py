"""Single orders: types, times in force, the market's hours, cancelling, replacing, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.simulator.alpaca.house import CALL, House, Refused, dec

HOUR_MS = 3_600_000
# From 06:06:40 to the close at 16:00.
TO_CLOSE_MS = 9 * HOUR_MS + 53 * 60_000 + 20_000


@pytest.fixture
def house() -> House:
    made = House()
    made.quote("AAPL", "199.90", "200.10", last="200")
    return made


def test_market_order_fills_at_the_quote(house: House) -> None:
    order = house.place(qty=10, client_order_id="mine")
    assert (order["status"], order["filled_qty"], order["order_class"]) == ("pending_new", "0", "")
    assert house.order(order)["filled_avg_price"] == "200.1"
    told = house.updates[-1][1]
    assert (told["event"], told["price"], told["qty"], told["position_qty"]) == ("fill", "200.1", "10", "10")
    assert told["order"]["status"] == "filled"
    assert house.world.order_by_client_id(house.account, "mine")["id"] == order["id"]
    house.place(qty=4, side="sell")
    assert (house.updates[-1][1]["price"], house.updates[-1][1]["position_qty"]) == ("199.9", "6")
    assert house.events() == ["new", "fill", "new", "fill"]


@pytest.mark.parametrize(
    ("body", "side", "quote", "price"),
    [
        ({"type": "limit", "limit_price": "195"}, "buy", ("194.90", "195.00"), "195"),
        ({"type": "limit", "limit_price": "205"}, "sell", ("205.00", "205.20"), "205"),
        ({"type": "stop", "stop_price": "205"}, "buy", ("204.90", "205.30"), "205.3"),
        ({"type": "stop", "stop_price": "195"}, "sell", ("194.50", "195.50"), "194.5"),
        ({"type": "stop_limit", "stop_price": "205", "limit_price": "206"}, "buy", ("205.00", "205.60"), "205.6"),
        ({"type": "trailing_stop", "trail_price": "5"}, "sell", ("194.90", "195.10"), "194.9"),
    ],
)
def test_resting_order_fills_when_its_price_is_reached(
    house: House, body: dict[str, Any], side: str, quote: tuple[str, str], price: str
) -> None:
    order = house.place("AAPL", 10, side, **body)
    assert house.events() == ["new"]
    house.quote("AAPL", *quote)
    assert house.events() == ["fill"]
    assert house.order(order)["filled_avg_price"] == price


def test_trailing_stop_moves_its_mark_and_keeps_it_overnight(house: House) -> None:
    house.place(qty=10)
    order = house.place("AAPL", 10, "sell", type="trailing_stop", trail_percent="5", time_in_force="gtc")
    assert (house.order(order)["hwm"], house.order(order)["stop_price"]) == ("199.9", "189.905")
    house.quote("AAPL", "220")
    assert (house.order(order)["hwm"], house.order(order)["stop_price"]) == ("220", "209")
    house.world.set_market("closed", house.now_ms)
    house.quote("AAPL", "215")
    house.world.set_market("open", house.now_ms)
    assert (house.order(order)["hwm"], house.order(order)["stop_price"]) == ("220", "209")
    house.events()
    house.quote("AAPL", "209")
    assert house.events() == ["fill"]


def test_partial_fill_leaves_a_rest_that_is_tried_again() -> None:
    house = House(partial_fill_share=1.0)
    order = house.place(qty=100)
    assert house.events() == ["new", "partial_fill"]
    assert 0 < dec(house.order(order)["filled_qty"]) < 100
    for _ in range(60):
        house.advance()
    assert house.status(order) == "filled"
    rows = house.world.activities(house.account, {"direction": "asc"}, "FILL")
    assert sum(dec(row["qty"]) for row in rows) == 100
    assert [row["type"] for row in rows] == ["partial_fill"] * (len(rows) - 1) + ["fill"]
    assert (rows[-1]["cum_qty"], rows[-1]["leaves_qty"]) == ("100", "0")


@pytest.mark.parametrize(("tif", "ends"), [("ioc", ["new", "partial_fill", "canceled"]), ("fok", ["new", "canceled"])])
def test_order_at_once_ends_with_what_it_got(house: House, tif: str, ends: list[str]) -> None:
    house.quote("AAPL", "200", ask_size="3")
    order = house.place(qty=10, time_in_force=tif)
    assert house.events() == ends
    assert house.order(order)["filled_qty"] == ("3" if tif == "ioc" else "0")


def test_orders_wait_while_the_market_is_closed(house: House) -> None:
    house.world.set_market("closed", house.now_ms)
    order = house.place(qty=1)
    night = house.limit("AAPL", 1, "buy", "201", extended_hours=True)
    coin = house.place("BTC/USD", "0.01", time_in_force="gtc")
    assert (order["status"], house.events()) == ("accepted", ["accepted", "accepted", "new", "fill"])
    assert house.world.clock(house.now_ms)["is_open"] is False
    house.world.set_market("extended", house.now_ms)
    assert (house.status(night), house.status(order), house.status(coin)) == ("filled", "accepted", "filled")
    house.world.set_market("open", house.now_ms)
    assert house.status(order) == "filled"


def test_auction_orders_trade_at_the_open_and_at_the_close(house: House) -> None:
    first, last = house.place(qty=1, time_in_force="opg"), house.place(qty=1, time_in_force="cls")
    assert (first["status"], house.events()) == ("accepted", ["accepted", "accepted"])
    house.advance(3 * HOUR_MS + 23 * 60_000)
    assert house.events() == []
    house.advance(20_000)  # 09:30
    assert (house.status(first), house.status(last)) == ("filled", "accepted")
    house.advance(TO_CLOSE_MS - 3 * HOUR_MS - 23 * 60_000 - 20_000)
    assert house.status(last) == "filled"


def test_limit_on_open_ends_when_the_open_is_dearer(house: House) -> None:
    order = house.limit("AAPL", 1, "buy", "190", time_in_force="opg")
    house.advance(4 * HOUR_MS)
    assert house.status(order) == "canceled"


def test_day_order_expires_at_the_close_and_gtc_after_ninety_days(house: House) -> None:
    day = house.limit("AAPL", 5, "buy", "150")
    night = house.limit("AAPL", 5, "buy", "150", extended_hours=True)
    long = house.limit("AAPL", 5, "buy", "150", time_in_force="gtc")
    assert (day["expires_at"], night["expires_at"]) == ("2026-11-18T21:00:00Z", "2026-11-19T01:00:00Z")
    house.advance(TO_CLOSE_MS - 1)
    assert "expired" not in house.events()
    house.advance(1)
    assert (house.status(day), house.status(night)) == ("expired", "new")
    house.advance(4 * HOUR_MS)
    assert (house.status(night), house.status(long)) == ("expired", "new")
    house.advance(90 * 24 * HOUR_MS)
    assert (house.status(long), house.events()) == ("expired", ["expired"] * 3)


def test_filled_quantity_survives_a_cancel(house: House) -> None:
    house.quote("AAPL", "200", ask_size="3")
    order = house.place(qty=10)
    house.cancel(order)
    assert house.status(order) == "pending_cancel"
    with Refused(42210000, "pending cancel"):
        house.cancel(order)
    house.advance()
    assert house.events() == ["new", "partial_fill", "pending_cancel", "canceled"]
    row = house.order(order)
    assert (row["status"], row["filled_qty"], row["filled_avg_price"]) == ("canceled", "3", "200")
    with Refused(42210000, 'already in "canceled" state'):
        house.cancel(order)


def test_fill_is_quicker_than_a_cancel(house: House) -> None:
    order = house.limit("AAPL", 10, "buy", "195")
    house.cancel(order)
    house.quote("AAPL", "195")
    house.advance()
    assert (house.events(), house.status(order)) == (["new", "pending_cancel", "fill"], "filled")


def test_replacement_takes_over_with_an_id_of_its_own(house: House) -> None:
    order = house.limit("AAPL", 10, "buy", "195")
    newer = house.replace(order, limit_price="196", qty="12", client_order_id="second")
    assert (newer["status"], newer["replaces"], newer["qty"], newer["limit_price"]) == (
        "accepted",
        order["id"],
        "12",
        "196",
    )
    assert (house.status(order), house.order(order)["replaced_by"]) == ("pending_replace", None)
    with Refused(42210000, "pending replace"):
        house.replace(order, limit_price="197")
    with Refused(42210000, "accepted status"):
        house.replace(newer, limit_price="197")
    house.advance()
    assert house.events() == ["new", "pending_replace", "replaced", "new"]
    assert (house.status(order), house.order(order)["replaced_by"], house.status(newer)) == (
        "replaced",
        newer["id"],
        "new",
    )
    house.quote("AAPL", "196")
    assert (house.events(), house.position()["qty"]) == (["fill"], "12")


def test_replacement_is_rejected_when_the_old_order_fills_first(house: House) -> None:
    order = house.limit("AAPL", 10, "buy", "195")
    newer = house.replace(order, limit_price="190")
    house.quote("AAPL", "195")
    house.advance()
    assert house.events() == ["new", "pending_replace", "fill", "rejected"]
    assert (house.status(order), house.status(newer)) == ("filled", "rejected")


def test_replacement_of_a_partly_filled_order_has_the_rest(house: House) -> None:
    house.quote("AAPL", "200", ask_size="3")
    order = house.limit("AAPL", 10, "buy", "201")
    newer = house.replace(order, qty="8")
    house.advance()
    assert (house.order(newer)["qty"], house.order(order)["filled_qty"]) == ("5", "3")
    house.quote("AAPL", "200")
    assert house.position()["qty"] == "8"


def test_replacement_is_refused_back_when_more_is_filled_than_it_wants(house: House) -> None:
    house.quote("AAPL", "200", ask_size="3")
    order = house.limit("AAPL", 10, "buy", "201")
    newer = house.replace(order, qty="4")
    house.quote("AAPL", "200", ask_size="2")
    house.advance()
    assert house.events()[-2:] == ["rejected", "order_replace_rejected"]
    assert (house.status(order), house.status(newer)) == ("partially_filled", "rejected")


def test_larger_of_old_and_new_is_reserved_while_replacing(house: House) -> None:
    order = house.limit("AAPL", 100, "buy", "100")
    house.replace(order, limit_price="150")
    assert house.document()["buying_power"] == "385000"
    house.advance()
    assert house.document()["buying_power"] == "385000"
    [row] = house.world.orders(house.account, {})
    house.replace(row, limit_price="100")
    assert house.document()["buying_power"] == "385000"
    house.advance()
    assert house.document()["buying_power"] == "390000"


def test_unchanged_replacement_is_refused(house: House) -> None:
    order = house.limit("AAPL", 10, "buy", "195")
    with Refused(42210000, "not changed"):
        house.replace(order, limit_price="195.00", qty=10)
    with Refused(42210000, "sub-penny"):
        house.replace(order, limit_price="195.001")
    with Refused(42210000, "must not have stop_price"):
        house.replace(order, stop_price="190")


def test_client_order_id_is_unique_for_ever(house: House) -> None:
    order = house.limit("AAPL", 10, "buy", "195", client_order_id="once")
    house.cancel(order)
    house.advance()
    with Refused(40010001, "client_order_id must be unique"):
        house.place(qty=1, client_order_id="once")


def test_wash_trade_is_refused(house: House) -> None:
    house.place(qty=10)
    order = house.limit("AAPL", 10, "sell", "210")
    with Refused(40310000, "wash trade") as refused:
        house.place(qty=1)
    assert refused.extra == {"existing_order_id": order["id"], "reject_reason": "opposite side limit order exists"}


def test_shares_are_held_for_orders(house: House) -> None:
    house.place(qty=10)
    house.limit("AAPL", 6, "sell", "210")
    assert house.position()["qty_available"] == "4"
    with Refused(40310000, "requested: 5, available: 4"):
        house.limit("AAPL", 5, "sell", "210")
    house.limit("AAPL", 4, "sell", "211")
    assert house.position()["qty_available"] == "0"


@pytest.mark.parametrize(
    ("symbol", "body", "words"),
    [
        ("HTB", {"qty": 1}, 'asset "HTB" cannot be sold short'),
        ("PENY", {"qty": 1}, "cannot be sold short"),
        ("BTC/USD", {"qty": "0.01", "time_in_force": "gtc"}, "insufficient balance for BTC"),
        (CALL, {"qty": 1}, "uncovered"),
    ],
)
def test_short_sale_is_forbidden(house: House, symbol: str, body: dict[str, Any], words: str) -> None:
    with Refused(40310000, words):
        house.place(symbol, side="sell", **body)


@pytest.mark.parametrize(
    ("code", "body", "words"),
    [
        (42210000, {"symbol": "NOPE", "qty": 1}, 'asset "NOPE" not found'),
        (40010001, {}, "qty or notional is required"),
        (40010001, {"qty": 1, "notional": 10}, "only one of"),
        (40010001, {"qty": "-1"}, "qty must be > 0"),
        (40010001, {"qty": "abc"}, "not a number"),
        (40010001, {"qty": True}, "qty must be > 0"),
        (40010001, {"qty": 1, "side": "hold"}, "invalid side"),
        (40010001, {"qty": 1, "time_in_force": None}, "time_in_force is required"),
        (40010001, {"qty": 1, "type": "limit"}, "require limit price"),
        (40010001, {"qty": 1, "client_order_id": "x" * 129}, "128"),
        (42210000, {"qty": 1, "limit_price": 5}, "must not have limit_price"),
        (42210000, {"qty": 1, "type": "limit", "limit_price": "200.001"}, "sub-penny"),
        (42210000, {"symbol": "PENY", "qty": 1, "type": "limit", "limit_price": "0.41001"}, "sub-penny"),
        (42210000, {"symbol": "PENY", "qty": "1.5"}, "not fractionable"),
        (42210000, {"qty": "1.5", "time_in_force": "gtc"}, "fractional orders must be DAY"),
        (42210000, {"qty": "1.5", "side": "sell"}, "fractional orders cannot be sold short"),
        (42210000, {"notional": "100", "time_in_force": "gtc"}, "notional"),
        (42210000, {"qty": 1, "extended_hours": True}, "extended hours"),
        (42210000, {"symbol": "BTC/USD", "qty": 1}, "invalid crypto time_in_force"),
        (40310000, {"symbol": "BTC/USD", "notional": "9.99", "time_in_force": "gtc"}, "minimal amount of order 10"),
        (42210000, {"symbol": CALL, "qty": 1, "time_in_force": "gtc"}, "invalid option time_in_force"),
        (42210000, {"qty": 1, "type": "trailing_stop", "trail_price": 1, "time_in_force": "ioc"}, "DAY or GTC"),
        (42210000, {"qty": 1, "position_intent": "buy_to_close"}, "intent mismatch"),
        (40310000, {"qty": 10_000}, "insufficient buying power"),
    ],
)
def test_order_is_refused(house: House, code: int, body: dict[str, Any], words: str) -> None:
    with Refused(code, words):
        house.place(**body)
    assert (house.updates, house.account.orders) == ([], {})


def test_prices_below_a_dollar_have_four_decimals(house: House) -> None:
    order = house.limit("PENY", 100, "buy", "0.4101")
    house.quote("PENY", "0.4101")
    assert house.order(order)["filled_avg_price"] == "0.4101"


def test_notional_buys_what_the_money_is_worth(house: House) -> None:
    order = house.place(notional="100")
    row = house.order(order)
    assert (row["qty"], row["notional"], row["filled_qty"]) == (None, "100", "0.499750124")  # 100 / 200.10
    assert dec(house.document()["cash"]) == 100_000 - dec("0.499750124") * dec("200.1")
    with Refused(42210000, "notional orders cannot be replaced"):
        house.world.set_market("closed", house.now_ms)
        other = house.place(notional="50")
        house.world.set_market("extended", house.now_ms)
        house.account.orders[other["id"]].status = house.account.orders[other["id"]].status.NEW
        house.replace(other, qty=5)


def test_suspended_account_places_nothing(house: House) -> None:
    house.world.configure(house.account, {"suspend_trade": True}, house.now_ms)
    with Refused(40310000, "user request"):
        house.place(qty=1)
    assert house.world.truth(house.account)["canTrade"] is False


def test_stop_that_the_market_has_passed_trades_at_once(house: House) -> None:
    house.place("AAPL", 10, "buy", type="stop", stop_price="190")
    assert house.events() == ["new", "fill"]


def test_events_carry_ids_that_sort_and_nanoseconds(house: House) -> None:
    house.place(qty=1)
    house.place(qty=1)
    payloads = [payload for _, payload in house.updates]
    ids = [payload["event_id"] for payload in payloads]
    assert ids == sorted(ids)
    assert len({len(each) for each in ids}) == 1 == len(ids) - len(set(ids)) + 1
    stamps = [payload["timestamp"] for payload in payloads]
    assert all(stamp.startswith("2026-11-18T11:06:40.00") for stamp in stamps)
    assert payloads[0]["order"]["submitted_at"].endswith("-05:00")
    assert payloads[0]["order"]["cancel_requested_at"] is None


def test_partial_fill_does_not_undo_a_cancel_on_its_way(house: House) -> None:
    order = house.limit("AAPL", 10, "buy", "195")
    house.cancel(order)
    house.quote("AAPL", "195", ask_size="4")
    assert (house.status(order), house.order(order)["filled_qty"]) == ("pending_cancel", "4")
    house.advance()
    assert (house.status(order), house.position()["qty"]) == ("canceled", "4")


def test_resting_order_does_not_trade_while_the_market_is_closed(house: House) -> None:
    order = house.limit("AAPL", 10, "buy", "195", time_in_force="gtc")
    house.world.set_market("closed", house.now_ms)
    house.quote("AAPL", "190")
    assert house.status(order) == "new"
    house.world.set_market("open", house.now_ms)
    assert house.order(order)["filled_avg_price"] == "190"
