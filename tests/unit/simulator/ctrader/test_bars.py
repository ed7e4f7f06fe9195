"""Trendbars are gathered from ticks and keep the shape the wire demands."""

import itertools

from bridge.simulator.ctrader.bars import BarBook
from bridge.simulator.ctrader.catalogue import BROKERS, make_catalogue
from bridge.simulator.ctrader.spots import Tick
from protos.ctrader import model_pb2 as o

MINUTE = 60_000
START = 29_920_200 * MINUTE  # a full hour
CATALOGUE = make_catalogue(BROKERS[0], live=False)
EURUSD = CATALOGUE.by_name["EURUSD"]


def filled() -> BarBook:
    book = BarBook(seed=1)
    for at_ms, bid in ((0, 100), (10_000, 130), (50_000, 90), (MINUTE, 95), (5 * MINUTE, 120)):
        book.tick(Tick(CATALOGUE.key, EURUSD.id, bid, bid + 2, START + at_ms))
    return book


def shape(bar: o.ProtoOATrendbar) -> tuple[int, int, int, int, int]:
    return bar.low + bar.deltaOpen, bar.low + bar.deltaHigh, bar.low, bar.low + bar.deltaClose, bar.volume


def test_ticks_make_bars_of_their_minutes_when_gathered() -> None:
    bars = filled().history(CATALOGUE.key, EURUSD, o.M1, START, START + 5 * MINUTE)
    assert [shape(each) for each in bars] == [(100, 130, 90, 90, 3), (95, 95, 95, 95, 1), (120, 120, 120, 120, 1)]
    assert [each.utcTimestampInMinutes * MINUTE - START for each in bars] == [0, MINUTE, 5 * MINUTE]


def test_minutes_join_into_longer_bars_when_the_period_is_longer() -> None:
    book = filled()
    five = book.history(CATALOGUE.key, EURUSD, o.M5, START, START + 5 * MINUTE)
    assert [shape(each) for each in five] == [(100, 130, 90, 95, 4), (120, 120, 120, 120, 1)]
    live = book.live(CATALOGUE.key, EURUSD.id, o.H1)
    assert live is not None
    assert shape(live) == (100, 130, 90, 120, 5)


def test_the_past_before_the_start_is_made_up_the_same_way_when_asked_twice() -> None:
    first = filled().history(CATALOGUE.key, EURUSD, o.M1, START - 10 * MINUTE, START - MINUTE)
    second = filled().history(CATALOGUE.key, EURUSD, o.M1, START - 10 * MINUTE, START - MINUTE)
    assert first == second
    assert len(first) == 10
    for before, after in itertools.pairwise(first):
        assert before.low + before.deltaClose == after.low + after.deltaOpen
