"""Brackets, oco, oto and orders of many legs: who starts, shrinks and ends whom."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.simulator.alpaca.house import CALL, HIGH_CALL, House, Refused


@pytest.fixture
def house() -> House:
    made = House()
    made.quote("AAPL", "200")
    return made


def test_exits_are_held_until_the_entry_is_completely_filled(house: House) -> None:
    order = house.bracket(10, profit="220", loss="190", type="limit", limit_price="199")
    assert (order["status"], [leg["status"] for leg in order["legs"]]) == ("pending_new", ["held", "held"])
    assert house.events() == ["new", "held", "held"]
    house.quote("AAPL", "199", ask_size="4")
    assert house.events() == ["partial_fill"]
    assert [house.status(leg) for leg in order["legs"]] == ["held", "held"]
    house.quote("AAPL", "198")
    assert house.events() == ["fill", "new", "new"]
    assert house.position()["qty_available"] == "0"


@pytest.mark.parametrize(("price", "filled", "canceled"), [("220", 0, 1), ("190", 1, 0)])
def test_filled_exit_cancels_the_other(house: House, price: str, filled: int, canceled: int) -> None:
    order = house.bracket(10, profit="220", loss="190")
    house.events()
    house.quote("AAPL", price)
    assert house.events() == ["fill", "canceled"]
    assert house.status(order["legs"][filled]) == "filled"
    assert house.status(order["legs"][canceled]) == "canceled"
    assert house.world.positions(house.account) == []


def test_partial_take_profit_shrinks_the_stop(house: House) -> None:
    order = house.bracket(10, profit="220", loss="190")
    profit, loss = order["legs"]
    house.events()
    house.quote("AAPL", "220", bid_size="3")
    assert house.events() == ["partial_fill", "restated"]
    assert (house.order(profit)["filled_qty"], house.order(loss)["qty"]) == ("3", "7")
    house.quote("AAPL", "190")
    assert house.events() == ["fill", "canceled"]
    assert (house.status(profit), house.order(profit)["filled_qty"]) == ("canceled", "3")
    assert house.world.positions(house.account) == []


@pytest.mark.parametrize("which", ["parent", "take_profit", "stop_loss"])
def test_cancelling_one_cancels_the_group(house: House, which: str) -> None:
    order = house.bracket(10, profit="220", loss="190", type="limit", limit_price="195")
    profit, loss = order["legs"]
    members = {"parent": order, "take_profit": profit, "stop_loss": loss}
    house.events()
    house.cancel(members[which])
    assert house.events() == ["pending_cancel"]
    house.advance()
    assert house.events() == ["canceled"] * 3
    assert {house.status(each) for each in members.values()} == {"canceled"}


def test_short_bracket_is_mirrored(house: House) -> None:
    order = house.bracket(5, "sell", profit="180", loss="210")
    assert [leg["side"] for leg in order["legs"]] == ["buy", "buy"]
    house.quote("AAPL", "210")
    assert house.world.positions(house.account) == []
    assert house.document()["cash"] == "99950"


def test_oco_exits_a_position_once(house: House) -> None:
    with Refused(42210000, "exit orders"):
        house.oco(profit="220", loss="190")
    house.place(qty=10)
    order = house.oco(profit="220", loss="190")
    assert (order["order_class"], order["type"], order["limit_price"]) == ("oco", "limit", "220")
    assert [(leg["type"], leg["stop_price"], leg["status"]) for leg in order["legs"]] == [
        ("stop", "190", "pending_new")
    ]
    assert house.position()["qty_available"] == "0"
    with Refused(40310000, "insufficient qty") as refused:
        house.world.close_position(house.account, "AAPL", {}, house.now_ms)
    assert {name: refused.extra[name] for name in ("available", "existing_qty", "held_for_orders", "symbol")} == {
        "available": "0", "existing_qty": "10", "held_for_orders": "10", "symbol": "AAPL",
    }  # fmt: skip
    assert refused.extra["related_orders"] == [order["id"], order["legs"][0]["id"]]
    house.events()
    house.quote("AAPL", "189")
    assert house.events() == ["fill", "canceled"]
    assert house.status(order) == "canceled"


def test_oto_has_one_exit(house: House) -> None:
    with Refused(42210000, "either"):
        house.place(qty=1, order_class="oto", stop_loss={"stop_price": "190"}, take_profit={"limit_price": "210"})
    order = house.place(qty=1, order_class="oto", stop_loss={"stop_price": "190", "limit_price": "189"})
    assert [(leg["type"], leg["limit_price"]) for leg in order["legs"]] == [("stop_limit", "189")]
    assert house.events() == ["new", "fill", "new"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "200"}, "base_price - 0.01"),
        ({"profit": "200"}, "base_price + 0.01"),
        ({"loss": "221"}, "beyond stop_loss"),
        ({"time_in_force": "ioc"}, "DAY or GTC"),
        ({"extended_hours": True}, "extended hours"),
        ({"qty": "1.5"}, "fractional orders must be simple"),
        ({"loss": "190.005"}, "sub-penny"),
    ],
)
def test_bracket_is_refused_when_a_rule_is_broken(house: House, changes: dict[str, Any], words: str) -> None:
    with Refused(42210000, words):
        house.bracket(**{"profit": "220", "loss": "190", **changes})
    assert house.updates == []


def test_bracket_opens_only(house: House) -> None:
    house.place(qty=10, side="sell")
    with Refused(42210000, "entry orders"):
        house.bracket(5, profit="220", loss="190")


def test_replaced_entry_keeps_its_exits(house: House) -> None:
    order = house.bracket(10, profit="220", loss="190", type="limit", limit_price="195")
    newer = house.replace(order, qty="4", limit_price="196")
    house.advance()
    house.quote("AAPL", "196")
    assert [house.order(leg)["qty"] for leg in order["legs"]] == ["4", "4"]
    nested = house.world.order(house.account, newer["id"], nested=True)
    assert [leg["status"] for leg in nested["legs"]] == ["new", "new"]
    assert house.position()["qty"] == "4"


def test_replaced_exit_stays_in_its_group(house: House) -> None:
    order = house.bracket(10, profit="220", loss="190")
    newer = house.replace(order["legs"][1], stop_price="195")
    house.advance()
    nested = house.world.order(house.account, order["id"], nested=True)
    assert [leg["id"] for leg in nested["legs"]] == [order["legs"][0]["id"], newer["id"]]
    house.quote("AAPL", "195")
    assert (house.status(newer), house.status(order["legs"][0])) == ("filled", "canceled")


def test_exits_are_listed_in_their_parent_only_when_it_is_listed(house: House) -> None:
    resting = house.bracket(10, profit="220", loss="190", type="limit", limit_price="195")
    rows = house.world.orders(house.account, {"nested": "true"})
    assert [(row["id"], len(row["legs"])) for row in rows] == [(resting["id"], 2)]
    assert len(house.world.orders(house.account, {})) == 3
    house.quote("AAPL", "195")
    rows = house.world.orders(house.account, {"nested": "true", "direction": "asc"})
    assert [row["id"] for row in rows] == [leg["id"] for leg in resting["legs"]]
    assert [row["id"] for row in house.world.orders(house.account, {"status": "all", "nested": "true"})] == [
        resting["id"]
    ]


def spread(house: House, qty: Any = 2, *, opens: bool = True, **body: Any) -> dict[str, Any]:
    word, first, second = ("open", "buy", "sell") if opens else ("close", "sell", "buy")
    legs = [
        {"symbol": CALL, "ratio_qty": "1", "position_intent": f"{first}_to_{word}"},
        {"symbol": HIGH_CALL, "ratio_qty": "1", "position_intent": f"{second}_to_{word}"},
    ]
    return house.place("", qty, "", order_class="mleg", legs=legs, **body)


def test_many_legs_trade_whole_at_a_net_price(house: House) -> None:
    house.quote(CALL, "40", "40.10")
    house.quote(HIGH_CALL, "22", "22.10")
    order = spread(house, type="limit", limit_price="18")
    assert house.events() == ["new"]  # 40.10 - 22 = 18.10
    house.quote(CALL, "39.90", "40")
    [(_, told)] = house.updates
    assert (told["event"], told["price"], told["qty"]) == ("fill", "18", "2")
    assert told["position_qtys"] == {CALL: "2", HIGH_CALL: "-2"}
    assert [(leg["side"], leg["qty"], leg["price"]) for leg in told["legs"]] == [
        ("buy", "2", "40"),
        ("sell", "2", "22"),
    ]
    assert told["execution_id"] == told["legs"][0]["execution_id"]
    rows = house.world.activities(house.account, {"direction": "asc"}, "FILL")
    assert [row["id"].partition("::")[2] for row in rows] == [leg["execution_id"] for leg in told["legs"]]
    assert [row["order_id"] for row in rows] == [leg["id"] for leg in order["legs"]]
    assert house.document()["cash"] == "96400"
    spread(house, opens=False)
    assert house.world.positions(house.account) == []


def test_order_of_many_legs_wears_empty_words_on_the_wire(house: House) -> None:
    house.world.set_market("closed", house.now_ms)
    row = spread(house)
    assert (row["symbol"], row["asset_class"], row["position_intent"], row["side"]) == ("", "", "", "")
    assert row["asset_id"] == "00000000-0000-0000-0000-000000000000"
    assert [(leg["type"], leg["ratio_qty"], leg["qty"]) for leg in row["legs"]] == [("", "1", "2"), ("", "1", "2")]
    [listed] = house.world.orders(house.account, {})
    assert listed["id"] == row["id"]
    [order] = house.world.truth(house.account)["orders"]
    assert (order["symbol"], order["side"], order["units"]) == (f"{CALL} + {HIGH_CALL}", "buy", 2)


def test_written_option_alone_is_refused(house: House) -> None:
    with Refused(40310000, "uncovered"):
        house.place(CALL, 1, "sell")
    with Refused(42210000, "intent mismatch"):
        spread(house, opens=False)


def test_stop_begins_smaller_when_the_take_profit_trades_at_once(house: House) -> None:
    house.place(qty=10)
    house.quote("AAPL", "221", bid_size="4")
    house.events()
    order = house.oco(profit="220", loss="190")
    assert house.events() == ["new", "partial_fill", "new"]
    assert (house.order(order)["filled_qty"], house.order(order["legs"][0])["qty"]) == ("4", "6")


def test_group_with_a_replacement_on_its_way_is_closed_whole(house: House) -> None:
    order = house.bracket(10, profit="220", loss="190")
    newer = house.replace(order["legs"][0], limit_price="230")
    house.events()
    house.world.close_all(house.account, True, house.now_ms)
    assert house.events() == ["canceled", "canceled", "rejected", "new", "fill"]
    assert (house.status(newer), house.account.open_orders) == ("rejected", {})


@pytest.mark.parametrize("size", ["4", "0"])
def test_triggered_stop_and_take_profit_never_trade_at_one_price(house: House, size: str) -> None:
    order = house.bracket(10, profit="220", loss="190")
    house.quote("AAPL", "190", bid_size=size)
    house.events()
    house.quote("AAPL", "225")
    assert house.events() == ["fill", "canceled"]
    assert (house.status(order["legs"][1]), house.world.positions(house.account)) == ("filled", [])


def test_exits_hold_what_the_entry_has_bought_so_far(house: House) -> None:
    order = house.bracket(10, profit="220", loss="190", type="limit", limit_price="199")
    house.quote("AAPL", "199", ask_size="4")
    held = house.position()
    assert (held["qty"], held["qty_available"]) == ("4", "0")
    house.cancel(order)
    house.advance()
    assert (house.position()["qty_available"], house.status(order["legs"][0])) == ("4", "canceled")


def test_exits_cannot_be_replaced_past_each_other(house: House) -> None:
    order = house.bracket(10, profit="220", loss="190")
    profit, loss = order["legs"]
    with Refused(42210000, "beyond stop_loss"):
        house.replace(profit, limit_price="190")
    house.replace(profit, limit_price="210")
    with Refused(42210000, "beyond stop_loss"):
        house.replace(loss, stop_price="215")
    house.advance()
    with Refused(42210000, "follows its group"):
        house.replace(loss, qty="5")


def test_replaced_stop_is_as_large_as_what_is_left_to_exit(house: House) -> None:
    order = house.bracket(10, profit="220", loss="190")
    newer = house.replace(order["legs"][1], stop_price="195")
    house.quote("AAPL", "220", bid_size="4")
    assert house.position()["qty_available"] == "0"
    house.advance()
    assert (house.order(newer)["qty"], house.position()["qty_available"]) == ("6", "0")
