"""An engine taken apart into values and built again goes on as the first one does."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.paper_trader import Engine, Event, Listing, MarginCall, recall, remember
from tests.unit.paper_trader.bench import MARKET, Bench, dec, listing
from tests.unit.paper_trader.test_properties import ACCOUNTS, START, Stage, operations


def run(stage: Stage, operation: tuple[Any, ...]) -> list[Event]:
    events: list[Event] = []
    with suppress(InvalidInput):
        events = stage.run(operation)
    return events


def recalled(engine: Engine) -> Engine:
    """The same engine, built from what it remembers."""
    rng = random.Random()
    rng.setstate(engine._desk.rng.getstate())
    return recall(remember(engine), rng)


@settings(max_examples=60)
@given(
    st.integers(0, 5),
    st.sampled_from([0.0, 0.4]),
    st.lists(operations, min_size=25, max_size=60),
    st.lists(operations, min_size=25, max_size=60),
)
def test_an_engine_recalled_answers_as_the_first_when_both_go_on(
    seed: int, chance: float, before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]
) -> None:
    first, second = Stage(seed, chance), Stage(seed, chance)
    for operation in before:
        run(first, operation)
        run(second, operation)
    second.engine = second.bench.engine = recalled(second.engine)
    assert remember(second.engine) == remember(first.engine)
    for operation in after:
        assert run(second, operation) == run(first, operation), operation
        for account in ACCOUNTS:
            assert second.engine.account_truth(account) == first.engine.account_truth(account)
        for name in START:
            assert second.engine.levels(MARKET, name) == first.engine.levels(MARKET, name)
        assert second.engine.next_due_ms() == first.engine.next_due_ms()
    assert remember(second.engine) == remember(first.engine)


def test_an_instrument_gets_its_swap_when_it_was_listed_just_before_the_engine_was_taken_apart() -> None:
    def charged(engine: Engine) -> int | None:
        engine.quote(MARKET, "XAUUSD", 1, bid=dec(2_600), ask=dec(2_601))
        return engine.next_due_ms()

    def newly_listed(terms: Listing) -> Engine:
        engine = Engine(random.Random(0))
        engine.add_market(MARKET)
        engine.add_listing(MARKET, terms)
        return engine

    engine = newly_listed(listing("XAUUSD"))
    assert charged(recalled(engine)) == charged(engine) is not None


def test_a_margin_call_is_not_sent_again_when_the_engine_was_taken_apart_below_its_level() -> None:
    def below(recall_it: bool, then_ms: int, bids: tuple[str, ...]) -> list[str]:
        bench = Bench(listing("EURUSD"), deposit=1_200, margin_call_levels=(dec(110),))
        bench.quote("1.10000", "1.10000")
        bench.place("buy", "market", 100_000)
        bench.quote("1.09980", "1.09980")
        assert any(isinstance(each, MarginCall) for each in bench.trace)
        bench.trace.clear()
        if recall_it:
            bench.engine = recalled(bench.engine)
        for bid in bids:
            bench.tick(bench.now_ms + then_ms)
            bench.quote(bid, bid)
        return [type(each).__name__ for each in bench.trace]

    for then_ms in (1, 700_000):
        for bids in (("1.09970",), ("1.10200", "1.09970"), ("1.08900",)):
            assert below(True, then_ms, bids) == below(False, then_ms, bids)
    assert below(True, 1, ("1.09970",)) == below(True, 1, ("1.10200", "1.09970")) == []
    assert below(True, 700_000, ("1.10200", "1.09970")) == ["MarginCall"]
