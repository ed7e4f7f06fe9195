"""Bars out of trades, by hand-worked examples."""

from decimal import Decimal as D

from bridge.simulator.alpaca.streams.minute_bars import DAY_NS, Bar, MinuteBars

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAWN = 20_000 * DAY_NS


def told(bars: list[tuple[str, str, Bar]]) -> list[tuple[str, str]]:
    return [(channel, symbol) for channel, symbol, _ in bars]


def test_a_minute_is_told_with_its_day_when_it_is_over() -> None:
    bars = MinuteBars(MINUTE)
    for second, price, size in ((1, "10", "2"), (20, "12", "1"), (59, "9", "1")):
        assert bars.add("A", DAWN + second * SECOND, D(price), D(size)) == []
    assert bars.roll(DAWN + 59 * SECOND) == []
    done = bars.roll(DAWN + MINUTE)
    assert told(done) == [("bars", "A"), ("dailyBars", "A")]
    minute = done[0][2]
    assert minute == Bar(DAWN, D(10), D(12), D(9), D(9), D(4), 3, D(41))
    assert minute.average == D("10.25")
    assert bars.roll(DAWN + 5 * MINUTE) == []  # minutes without trades have no bar


def test_a_trade_of_a_new_minute_ends_the_one_before() -> None:
    bars = MinuteBars(MINUTE)
    bars.add("A", DAWN + SECOND, D(10), D(1))
    done = bars.add("A", DAWN + MINUTE, D(11), D(1))
    assert told(done) == [("bars", "A"), ("dailyBars", "A")]
    assert done[0][2].close == D(10)
    assert done[1][2].trades == 1


def test_a_day_begins_anew_at_midnight() -> None:
    bars = MinuteBars(MINUTE)
    bars.add("A", DAWN + SECOND, D(10), D(1))
    bars.add("A", DAWN + DAY_NS, D(20), D(1))
    day = bars.roll(DAWN + DAY_NS + MINUTE)[1][2]
    assert (day.began_ns, day.open, day.volume) == (DAWN + DAY_NS, D(20), D(1))


def test_a_late_trade_updates_the_bar_that_was_told() -> None:
    bars = MinuteBars(MINUTE)
    bars.add("A", DAWN + SECOND, D(10), D(1))
    bars.roll(DAWN + MINUTE)
    bars.add("A", DAWN + 2 * SECOND, D(30), D(1))
    done = bars.roll(DAWN + MINUTE + SECOND)
    assert told(done) == [("updatedBars", "A")]
    assert (done[0][2].high, done[0][2].trades) == (D(30), 2)
    assert bars.roll(DAWN + MINUTE + 2 * SECOND) == []
