"""The pure parts on their own: triggers, conversion chains, price sources."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.instruments import Instrument
from core.paper_trader import RandomWalk, Tick, replay
from core.paper_trader.conversion import Converter
from core.paper_trader.market import fits
from core.paper_trader.triggers import Kind, Trigger, TriggerBook
from tests.unit.paper_trader.bench import dec


def converter(prices: dict[str, str], *pairs: str) -> Converter:
    made = Converter(lambda name: dec(prices[name]) if name in prices else None)
    for pair in pairs:
        made.add(Instrument(pair, pair, 5, pair[:3], pair[3:]))
    return made


def test_conversion_divides_and_multiplies_along_the_shortest_chain() -> None:
    made = converter({"EURUSD": "1.25", "USDJPY": "150", "USDSEK": "10"}, "EURUSD", "USDJPY", "USDSEK")
    chain = made.chain("SEK", "JPY")
    assert chain is not None
    assert [(step.instrument_id, step.inverse) for step in chain] == [("USDSEK", True), ("USDJPY", False)]
    assert made.convert(dec(100), "SEK", "JPY") == 1500
    assert made.convert(dec(3), "USD", "EUR") == dec("2.4")
    assert made.convert(dec(7), "USD", "USD") == 7
    assert made.chain("USD", "USD") == ()


def test_conversion_is_unknown_without_a_chain_or_a_price() -> None:
    made = converter({"EURUSD": "1.25"}, "EURUSD", "USDJPY")
    assert made.convert(dec(1), "EUR", "JPY") is None
    assert made.chain("EUR", "NOK") is None
    made.add(Instrument("EURNOK", "EURNOK", 5, "EUR", "NOK"))
    assert made.chain("EUR", "NOK") is not None


def test_first_listed_instrument_wins_among_equally_short_chains() -> None:
    made = converter({}, "USDSEK", "EURUSD", "EURJPY", "USDJPY")
    chain = made.chain("EUR", "SEK")
    assert chain is not None
    assert [step.instrument_id for step in chain] == ["EURUSD", "USDSEK"]


def test_long_chain_is_rounded_by_nobody_on_the_way() -> None:
    made = converter({"AAABBB": "3", "CCCBBB": "7", "CCCDDD": "21"}, "AAABBB", "CCCBBB", "CCCDDD")
    # 1 × 3 / 7 × 21 = 9 exactly, although 3 / 7 does not end
    assert made.convert(dec(1), "AAA", "DDD") == 9


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.booleans(), st.booleans(), st.sampled_from(["keep", "disarm"])), max_size=40
    ),
    st.integers(1, 30),
    st.integers(0, 5),
)
def test_trigger_book_fires_exactly_what_the_prices_reach(
    entries: list[tuple[int, bool, bool, str]], bid: int, spread: int
) -> None:
    book = TriggerBook()
    kept: list[Trigger] = []
    for number, (level, on_ask, rising, fate) in enumerate(entries):
        trigger = Trigger(Kind.ORDER, "a", number, on_ask=on_ask, rising=rising, level=dec(level))
        book.arm(trigger)
        if fate == "disarm":
            book.disarm(trigger)
            book.disarm(trigger)
        else:
            kept.append(trigger)
    ask = bid + spread
    expected = {
        trigger.owner_id
        for trigger in kept
        if trigger.level is not None
        and (
            (trigger.rising and (ask if trigger.on_ask else bid) >= trigger.level)
            or (not trigger.rising and (ask if trigger.on_ask else bid) <= trigger.level)
        )
    }
    fired = book.fire(dec(bid), dec(ask))
    assert {trigger.owner_id for trigger in fired} == expected
    assert len(fired) == len(expected)
    assert len(book) == len(kept) - len(expected)
    assert book.fire(dec(bid), dec(ask)) == []


def test_triggers_fire_nearest_first_and_oldest_first_among_equals() -> None:
    book = TriggerBook()
    for owner, level in ((1, "1.2"), (2, "1.1"), (3, "1.1"), (4, "1.3")):
        book.arm(Trigger(Kind.ORDER, "a", owner, on_ask=True, rising=True, level=dec(level)))
    assert [trigger.owner_id for trigger in book.fire(None, dec("1.25"))] == [2, 3, 1]


def test_trigger_without_a_level_fires_at_the_next_price_of_its_side() -> None:
    book = TriggerBook()
    book.arm(Trigger(Kind.ORDER, "a", 1, on_ask=True, rising=True, level=None))
    assert book.fire(dec(1), None) == []
    assert len(book.fire(None, dec(1))) == 1
    assert len(book) == 0


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [("1.10000", 1, True), ("1.15", 1, False), ("100", 0, True), ("1e3", 0, True), ("0.5", 0, False)],
)
def test_fits_counts_significant_decimals_only(value: str, digits: int, expected: bool) -> None:
    assert fits(dec(value), digits) is expected


def test_random_walk_repeats_for_a_seed_and_stays_near_home() -> None:
    def walk(seed: int) -> list[object]:
        made = RandomWalk(random.Random(seed), bid=dec("1.10000"), price_digits=5, spread_points=4, range_points=50)
        return [made.step() for _ in range(2000)]

    prices = walk(7)
    assert prices == walk(7)
    assert prices != walk(8)
    for bid, ask in prices:  # type: ignore[misc]
        assert ask - bid == dec("0.00004")
        assert abs(bid - dec("1.1")) <= dec("0.00053")


def test_random_walk_refuses_a_start_that_could_reach_zero() -> None:
    with pytest.raises(InvalidInput):
        RandomWalk(random.Random(1), bid=dec("0.005"), price_digits=5, range_points=1000)


def test_replay_reads_rows_and_leaves_empty_sides_alone() -> None:
    rows = ["at_ms,instrument_id,bid,ask", "10,1,1.1,1.2", "", "10,2,,1.3", "11,1,1.15,"]
    assert list(replay(rows)) == [
        Tick("1", 10, dec("1.1"), dec("1.2")),
        Tick("2", 10, None, dec("1.3")),
        Tick("1", 11, dec("1.15"), None),
    ]


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        (["10,1,1.1"], "rows[1]"),
        (["10,1,1.1,1.2", "9,1,1.1,1.2"], "rows[2].at_ms"),
        (["x,1,1.1,1.2"], "rows[1].at_ms"),
        (["10,1,abc,1.2"], "rows[1].bid"),
        (["10,1,1.1,-2"], "rows[1].ask"),
        (["10,1,NaN,2"], "rows[1].bid"),
    ],
)
def test_replay_names_row_and_field_when_malformed(rows: list[str], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        list(replay(rows))
    assert caught.value.field == field
