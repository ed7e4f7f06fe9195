"""Watchlists of one account of the simulated Alpaca."""

from typing import Any

import pytest

from bridge.simulator.alpaca.accounts.watchlists import MAX_LISTS, Watchlists
from bridge.simulator.alpaca.refusals import ApiRefusal, missing

ACCOUNT = "11111111-1111-5111-8111-111111111111"
ASSETS = {"AAPL": "AAPL", "MSFT": "MSFT", "BTC/USD": "BTC/USD", "BTCUSD": "BTC/USD"}


def asset_of(symbol: str) -> dict[str, Any]:
    if symbol not in ASSETS:
        raise missing("asset not found")
    return {"symbol": ASSETS[symbol], "id": f"id of {symbol}"}


@pytest.fixture
def lists() -> Watchlists:
    return Watchlists(ACCOUNT, asset_of)


def symbols_of(lists: Watchlists, name: str) -> list[str]:
    return [each["symbol"] for each in lists.document(lists.by_name(name))["assets"]]


def test_a_list_keeps_its_symbols_in_order_when_made_changed_and_emptied(lists: Watchlists) -> None:
    made = lists.create({"name": "one", "symbols": ["MSFT", "AAPL", "MSFT"]}, "t1")
    assert lists.by_id(made.id) is made
    assert symbols_of(lists, "one") == ["MSFT", "AAPL"]
    lists.add(made, {"symbol": "BTCUSD"}, "t2")
    assert symbols_of(lists, "one") == ["MSFT", "AAPL", "BTC/USD"]
    lists.remove(made, "AAPL", "t3")
    lists.update(made, {"name": "two"}, "t4")
    assert symbols_of(lists, "two") == ["MSFT", "BTC/USD"]
    lists.update(made, {"symbols": ["AAPL"]}, "t5")
    (head,) = lists.documents()
    assert head == {"id": made.id, "account_id": ACCOUNT, "created_at": "t1", "updated_at": "t5", "name": "two"}
    lists.delete(made)
    assert lists.documents() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"name": ""}, 422),
        ({"name": 7}, 422),
        ({"name": "x" * 65}, 422),
        ({"name": "taken"}, 422),
        ({"name": "new", "symbols": "AAPL"}, 422),
        ({"name": "new", "symbols": ["NOPE"]}, 422),
        ({"name": "new", "symbols": [{}]}, 422),
    ],
)
def test_a_list_is_refused_when_its_body_is_wrong(lists: Watchlists, body: dict[str, Any], status: int) -> None:
    lists.create({"name": "taken"}, "t")
    with pytest.raises(ApiRefusal) as refused:
        lists.create(body, "t")
    assert refused.value.status == status
    assert len(lists.documents()) == 1


def test_a_change_is_refused_when_list_or_symbol_is_wrong(lists: Watchlists) -> None:
    one = lists.create({"name": "one", "symbols": ["AAPL"]}, "t")
    lists.create({"name": "two"}, "t")
    for status, attempt in (
        (404, lambda: lists.by_id("nope")),
        (404, lambda: lists.by_name("nope")),
        (422, lambda: lists.by_name(None)),
        (404, lambda: lists.remove(one, "MSFT", "t")),
        (422, lambda: lists.add(one, {"symbol": "AAPL"}, "t")),
        (422, lambda: lists.add(one, {}, "t")),
        (422, lambda: lists.update(one, {"name": "two"}, "t")),
        (422, lambda: lists.update(one, {"symbols": ["NOPE"]}, "t")),
    ):
        with pytest.raises(ApiRefusal) as refused:
            attempt()
        assert refused.value.status == status
    assert symbols_of(lists, "one") == ["AAPL"]
    assert lists.update(one, {"name": "one"}, "t").name == "one"


def test_a_list_is_refused_when_there_are_too_many(lists: Watchlists) -> None:
    for number in range(MAX_LISTS):
        lists.create({"name": f"list {number}"}, "t")
    with pytest.raises(ApiRefusal):
        lists.create({"name": "one more"}, "t")
