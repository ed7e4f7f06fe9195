"""Subscriptions of a market-data connection: additive, answered in full, refused whole."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.simulator.alpaca.streams.subscriptions import Feed, Refused, Subscriptions

IEX = Feed("/v2/iex", "us_equity", symbol_limit=30)
CRYPTO = Feed("/v1beta3/crypto/us", "crypto")


def subscribed(feed: Feed = IEX, **channels: list[str]) -> Subscriptions:
    subscriptions = Subscriptions(feed)
    subscriptions.change({"action": "subscribe", **channels}, add=True)
    return subscriptions


def refusal(subscriptions: Subscriptions, **channels: Any) -> int:
    with pytest.raises(Refused) as refused:
        subscriptions.change({"action": "subscribe", **channels}, add=True)
    return refused.value.code


def test_a_change_is_answered_with_every_list() -> None:
    assert subscribed(trades=["MSFT", "AAPL"], bars=["*"]).listing() == {
        "T": "subscription",
        "trades": ["AAPL", "MSFT"],
        "quotes": [],
        "bars": ["*"],
        "updatedBars": [],
        "dailyBars": [],
        "statuses": [],
        "lulds": [],
        "corrections": ["AAPL", "MSFT"],
        "cancelErrors": ["AAPL", "MSFT"],
    }


def test_crypto_has_its_own_lists() -> None:
    listing = subscribed(CRYPTO, trades=["BTC/USD"], orderbooks=["ETH/USD"]).listing()
    assert list(listing) == ["T", "trades", "quotes", "orderbooks", "bars", "updatedBars", "dailyBars"]
    assert listing["orderbooks"] == ["ETH/USD"]


def test_subscribing_adds_and_unsubscribing_subtracts() -> None:
    subscriptions = subscribed(trades=["AAPL"])
    subscriptions.change({"action": "subscribe", "trades": ["MSFT"], "quotes": ["SPY"]}, add=True)
    subscriptions.change({"action": "unsubscribe", "trades": ["AAPL", "GME"]}, add=False)
    assert subscriptions.wants("trades", "MSFT")
    assert not subscriptions.wants("trades", "AAPL")
    assert subscriptions.wants("quotes", "SPY")
    assert not subscriptions.wants("bars", "SPY")


def test_corrections_follow_trades() -> None:
    subscriptions = subscribed(trades=["AAPL"])
    assert subscriptions.wants("corrections", "AAPL")
    assert subscriptions.wants("cancelErrors", "AAPL")
    assert not subscriptions.wants("corrections", "MSFT")


def test_a_star_means_every_symbol() -> None:
    assert subscribed(bars=["*"]).wants("bars", "ANY")


def test_the_limit_counts_symbols_of_trades_and_quotes_only() -> None:
    thirty = [f"S{number}" for number in range(30)]
    subscriptions = subscribed(trades=thirty, quotes=thirty, bars=["*", *(f"B{number}" for number in range(99))])
    assert refusal(subscriptions, quotes=["ONE"]) == 405
    assert not subscriptions.wants("quotes", "ONE")
    subscriptions.change({"action": "unsubscribe", "trades": ["S1"], "quotes": ["S1"]}, add=False)
    subscriptions.change({"action": "subscribe", "quotes": ["ONE"]}, add=True)
    assert subscriptions.wants("quotes", "ONE")


def test_a_star_of_trades_is_over_the_limit_where_there_is_one() -> None:
    assert refusal(Subscriptions(IEX), trades=["*"]) == 405
    assert subscribed(Feed("/v2/sip", "us_equity"), trades=["*"]).wants("trades", "AAPL")


def test_a_refused_wish_changes_nothing() -> None:
    subscriptions = subscribed(trades=["AAPL"])
    assert refusal(subscriptions, trades=["MSFT"], quotes=["no good"]) == 400
    assert not subscriptions.wants("trades", "MSFT")


@pytest.mark.parametrize(
    ("feed", "channels", "code"),
    [
        (IEX, {}, 400),
        (IEX, {"trades": "AAPL"}, 400),
        (IEX, {"trades": [1]}, 400),
        (IEX, {"trades": ["aapl"]}, 400),
        (IEX, {"trades": ["BTC/USD"]}, 400),
        (IEX, {"hello": ["AAPL"]}, 400),
        (IEX, {"orderbooks": ["AAPL"]}, 410),
        (CRYPTO, {"trades": ["BTCUSD"]}, 400),
        (CRYPTO, {"lulds": ["BTC/USD"]}, 410),
        (CRYPTO, {"corrections": ["BTC/USD"]}, 410),
    ],
)
def test_what_a_feed_does_not_understand_is_refused(feed: Feed, channels: dict[str, Any], code: int) -> None:
    assert refusal(Subscriptions(feed), **channels) == code


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(["trades", "quotes", "bars"]), st.lists(st.sampled_from("ABCDE"))),
        max_size=30,
    )
)
def test_the_lists_are_those_of_a_set_per_channel(steps: list[tuple[bool, str, list[str]]]) -> None:
    subscriptions, model = Subscriptions(Feed("/v2/sip", "us_equity")), {}
    for add, channel, symbols in steps:
        subscriptions.change({"action": "any", channel: symbols}, add=add)
        before = model.get(channel, set())
        model[channel] = before | set(symbols) if add else before - set(symbols)
    listing = subscriptions.listing()
    assert all(listing[channel] == sorted(symbols) for channel, symbols in model.items())
