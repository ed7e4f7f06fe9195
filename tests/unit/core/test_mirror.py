"""The mirror and reconcile: duplicates, order of arrival, lost events, and agreement with the truth."""

from dataclasses import replace
from decimal import Decimal
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from core.account import APPLIED_BY, AccountMirror, Snapshot
from core.events import (
    AccountChanged,
    BalanceChanged,
    Event,
    Execution,
    MarginChanged,
    OrderChanged,
    OrderGone,
    PositionChanged,
    PositionClosed,
    StopLossMoved,
)
from core.instruments import Catalogue
from core.orders import Order, OrderType, Side
from core.positions import Position
from core.reconcile import empties, rebuild, reconcile

NOW = 1_732_341_700_000


def mirror() -> AccountMirror:
    return AccountMirror("demo", "1", Catalogue())


def position(key: str, at: int, units: int = 1000, margin: str | None = "5") -> Position:
    used = None if margin is None else Decimal(margin)
    return Position(key, "1", Side.BUY, Decimal(units), Decimal("1.1"), used_margin=used, updated_at_ms=at)


def order(key: str, at: int, units: int = 1000) -> Order:
    return Order(key, "1", Side.SELL, OrderType.LIMIT, Decimal(units), limit_price=Decimal("1.2"), updated_at_ms=at)


def one(event: Event, key: str | None = None) -> Execution:
    return Execution((event,), dedupe_key=key)


def test_a_duplicate_changes_nothing_when_seen_again() -> None:
    m = mirror()
    assert m.apply(one(PositionChanged(position("1", 10)), "d1"), NOW)
    m.clean()
    assert not m.apply(one(PositionClosed("1", 11), "d1"), NOW + 1)
    assert "1" in m.positions
    assert not m.dirty
    assert m.content_at_ms == NOW


def test_an_older_version_is_ignored_when_it_arrives_late() -> None:
    m = mirror()
    m.apply(one(PositionChanged(position("1", 20, units=2000))), NOW)
    assert not m.apply(one(PositionChanged(position("1", 10, units=1000))), NOW)
    assert m.positions["1"].units == 2000


def test_a_closed_position_stays_closed_when_its_opening_arrives_late() -> None:
    m = mirror()
    m.apply(one(PositionClosed("1", 20)), NOW)
    assert not m.apply(one(PositionChanged(position("1", 10))), NOW)
    assert not m.positions
    m.apply(one(OrderGone("7", 20)), NOW)
    assert not m.apply(one(OrderChanged(order("7", 19))), NOW)
    assert not m.orders


def test_the_highest_balance_version_wins_when_versions_cross() -> None:
    m = mirror()
    m.apply(one(BalanceChanged(Decimal(110), 5)), NOW)
    assert not m.apply(one(BalanceChanged(Decimal(100), 4)), NOW)
    assert m.balance == 110
    assert m.apply(one(BalanceChanged(Decimal(120), 6)), NOW)


def test_known_margin_is_kept_when_a_message_carries_none() -> None:
    m = mirror()
    m.apply(one(PositionChanged(position("1", 1, margin="5"))), NOW)
    m.apply(one(PositionChanged(position("1", 2, units=500, margin=None), margin_known=False)), NOW)
    assert m.positions["1"].used_margin == 5
    m.apply(one(MarginChanged("1", Decimal(3))), NOW)
    m.apply(one(StopLossMoved("1", Decimal("1.05"))), NOW)
    assert (m.positions["1"].used_margin, m.positions["1"].stop_loss) == (3, Decimal("1.05"))


def test_the_listener_is_told_once_until_clean_when_ticks_pour_in() -> None:
    told = []
    m = mirror()
    m.on_dirty = lambda: told.append(1)
    for raw in range(100, 200):
        m.set_quote("1", raw, None)
    assert len(told) == 1
    m.clean()
    m.set_quote("1", None, 201)
    assert len(told) == 2
    assert (m.quotes["1"].bid, m.quotes["1"].ask) == (199, 201)
    assert m.events == 101


def snapshot(positions: list[Position], orders: list[Order], balance: int = 100, version: int = 1) -> Snapshot:
    return Snapshot(
        AccountChanged("USD", 2, Decimal(100), True),
        BalanceChanged(Decimal(balance), version),
        tuple(positions),
        tuple(orders),
    )


def test_nothing_is_missing_when_mirror_and_snapshot_agree() -> None:
    m = mirror()
    reading = snapshot([position("1", 5)], [order("2", 5)])
    assert rebuild(m, reading, [], NOW)
    m.clean()
    assert rebuild(m, reading, [], NOW + 5) == []
    assert not m.dirty
    assert (m.content_at_ms, m.confirmed_at_ms) == (NOW, NOW + 5)


def test_buffered_events_win_when_newer_than_the_snapshot() -> None:
    m = mirror()
    rebuild(m, snapshot([position("1", 5), position("2", 5)], []), [], NOW)
    buffered = [
        one(PositionClosed("1", 9)),
        one(PositionChanged(position("3", 9))),
        one(PositionChanged(position("2", 4))),
    ]
    for execution in buffered:
        m.apply(execution, NOW)
    missing = rebuild(m, snapshot([position("1", 5), position("2", 5)], []), buffered, NOW + 1)
    assert sorted(m.positions) == ["2", "3"]
    assert missing == []


def test_a_newer_looking_fiction_is_replaced_when_the_snapshot_disagrees() -> None:
    m = mirror()
    rebuild(m, snapshot([position("1", 5)], []), [], NOW)
    m.apply(one(PositionChanged(position("1", 4_000_000_000_000, units=9))), NOW)
    m.clean()
    rebuild(m, snapshot([position("1", 5)], []), [], NOW + 7)
    assert m.positions["1"].units == 1000
    assert m.dirty  # a repair that nobody is told of never reaches the record
    assert m.content_at_ms == NOW + 7


def test_emptying_is_noticed_when_a_holder_comes_back_empty() -> None:
    m = mirror()
    assert not empties(m, snapshot([], []))
    rebuild(m, snapshot([position("1", 5)], []), [], NOW)
    assert empties(m, snapshot([], []))
    assert not empties(m, snapshot([], [order("9", 1)]))


keys = st.sampled_from(["1", "2", "3", "4"])
positions = st.builds(position, keys, st.integers(1, 50), st.integers(1, 9))
orders = st.builds(order, keys, st.integers(1, 50), st.integers(1, 9))
events = st.one_of(
    positions.map(lambda p: one(PositionChanged(p))),
    st.builds(lambda k, at: one(PositionClosed(k, at)), keys, st.integers(0, 50)),
    orders.map(lambda o: one(OrderChanged(o))),
    st.builds(lambda k, at: one(OrderGone(k, at)), keys, st.integers(0, 50)),
    st.builds(lambda b, v: one(BalanceChanged(Decimal(b), v)), st.integers(0, 5), st.integers(0, 9)),
)


def unique(items: list) -> list:
    return list({item.id: item for item in items}.values())


@settings(max_examples=300)
@given(st.lists(events, max_size=20), st.lists(positions, max_size=4), st.lists(orders, max_size=4))
def test_the_mirror_equals_the_snapshot_when_rebuilt_after_any_history(history, held, working) -> None:
    m = mirror()
    for execution in history:
        m.apply(execution, NOW)
    reading = snapshot(unique(held), unique(working), version=99)
    rebuild(m, reading, [], NOW)
    assert list(m.positions.values()) == unique(held)
    assert list(m.orders.values()) == unique(working)
    assert m.balance == 100
    assert reconcile(m, reading) == []


@settings(max_examples=300)
@given(st.lists(st.builds(position, keys, st.integers(1, 50)), max_size=8), st.randoms(use_true_random=False))
def test_the_same_state_is_reached_when_versions_arrive_in_any_order(versions, rng) -> None:
    by_version = list({(p.id, p.updated_at_ms): p for p in versions}.values())
    straight, shuffled = mirror(), mirror()
    for p in sorted(by_version, key=lambda p: p.updated_at_ms):
        straight.apply(one(PositionChanged(replace(p))), NOW)
    rng.shuffle(by_version)
    for p in by_version:
        shuffled.apply(one(PositionChanged(replace(p))), NOW)
    assert straight.positions == shuffled.positions


def test_every_kind_of_fact_is_applied_when_it_comes() -> None:
    assert set(APPLIED_BY) == set(get_args(Event))
