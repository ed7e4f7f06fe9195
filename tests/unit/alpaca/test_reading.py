"""The judge of readings: REST that lags, executions found while reading, those that no message told of."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.brokers.alpaca import reading as readings
from bridge.brokers.alpaca import snapshot, updates
from bridge.brokers.alpaca.activities import read_activity
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.reading import Executions, Reading, Verdict, judge
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.times import from_ms
from core.account import REMEMBERED_FILLS
from core.events import Fill
from core.orders import OrderStatus
from core.reconcile import rebuild
from tests.unit.alpaca.documents import AAPL, NOW, a_fill, a_mirror, a_position, an_account, an_activity, an_order

BEFORE = NOW - 120_000
DONE = an_order(status="filled", filled_qty="10")
SETTINGS = AlpacaSettings()


@dataclass
class Hub:
    """Memory and mirror of one account, used as a hub does."""

    assets: Assets = field(default_factory=Assets)
    memory: Executions = field(default_factory=lambda: Executions(SETTINGS))
    clock: float = 1000.0
    now_ms: int = NOW

    def __post_init__(self) -> None:
        self.mirror = a_mirror(self.assets)
        self.buffer: list[updates.TradeUpdate] = []

    def hear(self, data: Any) -> None:
        update = updates.read(data)
        facts = updates.facts(update, self.mirror, self.assets, self.memory.included)
        self.mirror.apply(facts.execution, self.now_ms)
        for fill in facts.fills:
            self.mirror.note_fill(fill)
        self.memory.heard(facts, self.clock)
        self.buffer.append(update)

    def begin(self) -> readings.Mark:
        self.buffer.clear()
        return self.memory.mark(self.now_ms)

    def read(self, mark: readings.Mark, *fills: tuple[str, int], **parts: Any) -> Reading:
        """A reading; `before`: what REST showed when it began, by default as much as at its end."""
        rows = tuple(read_activity(an_activity(name, from_ms(at))) for name, at in fills)
        before = frozenset(parts.get("before", (name for name, _ in fills)))
        account, positions = parts.get("account", an_account()), parts.get("positions", ())
        return Reading(account, positions, parts.get("orders", ()), rows, mark, before=before)

    def judge(self, reading: Reading) -> Verdict:
        verdict = judge(reading, self.memory, snapshot.missing_orders(reading, self.mirror), self.clock)
        self.memory.shown(reading)
        return verdict

    def accept(self, reading: Reading) -> tuple[Fill, ...]:
        made = snapshot.assemble(reading, self.mirror, self.assets, self.memory)
        settled = snapshot.with_updates(made.snapshot, self.buffer, reading, self.mirror, self.assets, self.memory)
        rebuild(self.mirror, settled, (), self.now_ms)
        recovered = self.memory.accept(reading, self.assets, self.clock)
        for fill in recovered:
            self.mirror.note_fill(fill)
        return recovered

    def start(self, *fills: tuple[str, int], **parts: Any) -> None:
        """An account that was read once."""
        reading = self.read(self.begin(), *fills, **parts)
        assert self.judge(reading) is Verdict.ACCEPT
        assert self.accept(reading) == ()
        self.clock += 60
        self.now_ms += 60_000


# ---------------------------------------------------------------- the judge


def test_a_first_reading_is_accepted_when_all_in_it_happened_before() -> None:
    hub = Hub()
    hub.start(("e1", BEFORE), ("e2", BEFORE))
    assert hub.mirror.fills == ()
    assert hub.memory.included("e1")


def test_a_first_reading_is_made_again_when_something_was_executed_just_then() -> None:
    hub = Hub()
    reading = hub.read(hub.begin(), ("e1", NOW - 1000))
    assert hub.judge(reading) is Verdict.NEWER
    reading = hub.read(hub.begin(), ("e1", NOW - 1000))
    assert hub.judge(reading) is Verdict.ACCEPT
    assert hub.accept(reading) == ()


def test_a_reading_is_newer_when_it_shows_what_nobody_knew_at_its_start() -> None:
    hub = Hub()
    hub.start(("e1", BEFORE))
    assert hub.judge(hub.read(hub.begin(), ("e1", BEFORE), ("e2", NOW))) is Verdict.NEWER
    reading = hub.read(hub.begin(), ("e1", BEFORE), ("e2", NOW))
    assert hub.judge(reading) is Verdict.ACCEPT
    (fill,) = hub.accept(reading)
    assert (fill.execution_id, fill.recovered, fill.units, fill.at_ms) == ("e2", True, Decimal(4), NOW)
    assert hub.mirror.fills == (fill,)
    again = hub.read(hub.begin(), ("e1", BEFORE), ("e2", NOW))
    assert hub.judge(again) is Verdict.ACCEPT
    assert hub.accept(again) == ()


def test_a_reading_is_stale_when_it_does_not_show_what_the_stream_told() -> None:
    hub = Hub()
    hub.start()
    hub.hear(a_fill("e1", order=DONE))
    assert hub.judge(hub.read(hub.begin())) is Verdict.STALE
    reading = hub.read(hub.begin(), ("e1", NOW))
    assert hub.judge(reading) is Verdict.ACCEPT
    assert hub.accept(reading) == ()  # the stream told of it
    assert hub.judge(hub.read(hub.begin())) is Verdict.ACCEPT  # what was seen once is not waited for again


def test_a_reading_is_stale_when_rest_shows_an_execution_only_after_the_account_was_read() -> None:
    hub = Hub()
    hub.start()
    hub.hear(a_fill("e1", order=DONE))
    assert hub.memory.waits(hub.clock)
    assert hub.judge(hub.read(hub.begin(), ("e1", NOW), before=())) is Verdict.STALE
    reading = hub.read(hub.begin(), ("e1", NOW), before=("e1",))
    assert hub.judge(reading) is Verdict.ACCEPT
    hub.accept(reading)
    assert not hub.memory.waits(hub.clock)


def test_a_reading_is_newer_when_the_stream_tells_during_it_what_it_shows() -> None:
    hub = Hub()
    hub.start()
    mark = hub.begin()
    hub.hear(a_fill("e1", order=DONE))
    assert hub.judge(hub.read(mark, ("e1", NOW))) is Verdict.NEWER


def test_nobody_waits_for_an_execution_when_rest_never_shows_it() -> None:
    hub = Hub()
    hub.start()
    hub.hear(a_fill("e1", order=DONE))
    hub.clock += SETTINGS.activity_lag_s + 1
    reading = hub.read(hub.begin())
    assert hub.judge(reading) is Verdict.ACCEPT
    hub.accept(reading)
    assert hub.memory.unconfirmed == 1


def test_a_message_that_comes_late_is_known_when_a_reading_found_its_execution_first() -> None:
    hub = Hub()
    hub.start()
    parts = {"account": an_account(cash="600"), "positions": (a_position(),)}
    for _ in range(2):
        reading = hub.read(hub.begin(), ("e1", NOW), **parts)
        verdict = hub.judge(reading)
    assert verdict is Verdict.ACCEPT
    assert [fill.recovered for fill in hub.accept(reading)] == [True]
    hub.hear(a_fill("e1"))
    assert (hub.mirror.balance, hub.mirror.positions[AAPL].units) == (Decimal(600), Decimal(4))
    assert len(hub.mirror.fills) == 1
    assert hub.mirror.orders["o1"].filled_units == Decimal(4)


def test_a_message_is_told_live_when_it_comes_before_the_reading_that_found_it_is_accepted() -> None:
    hub = Hub()
    hub.start()
    assert hub.judge(hub.read(hub.begin(), ("e1", NOW))) is Verdict.NEWER
    hub.hear(a_fill("e1", order=DONE))
    reading = hub.read(hub.begin(), ("e1", NOW))
    assert hub.judge(reading) is Verdict.ACCEPT
    assert hub.accept(reading) == ()
    assert [fill.recovered for fill in hub.mirror.fills] == [False]


def test_a_reading_is_accepted_when_the_stream_tells_late_what_an_earlier_reading_showed() -> None:
    hub = Hub()
    hub.start()
    assert hub.judge(hub.read(hub.begin(), ("e1", NOW))) is Verdict.NEWER
    mark = hub.begin()
    hub.hear(a_fill("e1", order=DONE))
    parts = {"account": an_account(cash="600"), "positions": (a_position(),)}
    reading = hub.read(mark, ("e1", NOW), before=(), **parts)
    assert hub.judge(reading) is Verdict.ACCEPT
    assert hub.accept(reading) == ()
    assert hub.mirror.balance == Decimal(600)


def test_a_reading_is_stale_when_it_does_not_list_an_order_that_was_just_placed() -> None:
    hub = Hub()
    hub.start()
    hub.hear({"event": "new", "order": an_order()})
    assert hub.judge(hub.read(hub.begin())) is Verdict.STALE
    hub.clock += SETTINGS.order_lag_s
    reading = hub.read(hub.begin())
    assert hub.judge(reading) is Verdict.ACCEPT  # then REST is right: the message of its end was lost
    hub.accept(reading)
    assert not hub.mirror.orders


@pytest.mark.parametrize("status", ["pending_cancel", "pending_replace"])
def test_nobody_waits_for_an_order_when_it_was_about_to_end(status: str) -> None:
    hub = Hub()
    hub.start()
    for event, word in (("new", "new"), (status, status)):
        hub.hear({"event": event, "order": an_order(status=word)})
    assert list(hub.mirror.orders) == ["o1"]
    assert hub.judge(hub.read(hub.begin())) is Verdict.ACCEPT


def test_executions_are_looked_for_since_the_last_accepted_reading_when_one_begins() -> None:
    hub = Hub()
    assert hub.begin().since_ms == NOW - 300_000
    hub.start()
    hub.now_ms += 7_200_000
    assert hub.begin().since_ms == NOW - 300_000
    hub.accept(hub.read(hub.begin()))
    assert hub.begin().since_ms == hub.now_ms - 300_000


# ---------------------------------------------------------------- what is replayed


def test_what_the_stream_said_meanwhile_is_replayed_when_a_reading_is_taken_as_it_is() -> None:
    hub = Hub()
    hub.start(account=an_account(cash="1000"))
    hub.hear(a_fill("e1"))
    mark = hub.begin()
    hub.hear(a_fill("e2", position_qty="8", order=an_order(filled_qty="8", status="partially_filled")))
    hub.hear({"event": "new", "order": an_order(id="o2")})
    reading = hub.read(mark, ("e1", NOW), account=an_account(cash="600"), positions=(a_position(),))
    assert hub.judge(reading) is Verdict.STALE
    hub.accept(reading)  # the last try
    assert hub.mirror.balance == Decimal(200)
    assert hub.mirror.positions[AAPL].units == Decimal(8)
    assert list(hub.mirror.orders) == ["o1", "o2"]


def test_an_execution_is_not_counted_twice_when_it_was_heard_during_a_reading_that_shows_it() -> None:
    hub = Hub()
    hub.start()
    mark = hub.begin()
    hub.hear(a_fill("e1", order=DONE))
    parts = {"account": an_account(cash="600"), "positions": (a_position(),)}
    reading = hub.read(mark, ("e1", NOW), **parts)
    assert hub.judge(reading) is Verdict.NEWER
    hub.accept(reading)  # the last try
    assert (hub.mirror.balance, hub.mirror.positions[AAPL].units) == (Decimal(600), Decimal(4))


def test_an_execution_that_was_heard_before_is_not_counted_twice_when_rest_never_shows_it() -> None:
    hub = Hub()
    hub.start()
    hub.hear(a_fill("e1"))
    hub.clock += SETTINGS.activity_lag_s + 1
    mark = hub.memory.mark(hub.now_ms)  # the buffer still holds it
    hub.accept(hub.read(mark, account=an_account(cash="600"), positions=(a_position(),)))
    assert (hub.mirror.balance, hub.mirror.positions[AAPL].units) == (Decimal(600), Decimal(4))


@pytest.mark.parametrize("status", ["filled", "canceled"])
def test_an_order_stays_gone_when_rest_still_lists_it(status: str) -> None:
    hub = Hub()
    hub.start(orders=(an_order(),))
    hub.hear({"event": status, "order": an_order(status=status)})
    hub.accept(hub.read(hub.begin(), orders=(an_order(),)))
    assert not hub.mirror.orders
    newer = an_order(updated_at="2026-11-20T14:31:00Z")
    hub.accept(hub.read(hub.begin(), orders=(newer,)))
    assert list(hub.mirror.orders) == ["o1"]  # a later version: the broker knows better


def test_the_later_version_of_an_order_stays_when_rest_lists_an_older_one() -> None:
    hub = Hub()
    hub.start(orders=(an_order(),))
    hub.hear({"event": "pending_cancel", "order": an_order(status="pending_cancel", updated_at=from_ms(NOW))})
    hub.accept(hub.read(hub.begin(), orders=(an_order(),)))
    assert hub.mirror.orders["o1"].status is OrderStatus.PENDING_CANCEL


# ---------------------------------------------------------------- any order of things

STEP = st.sampled_from(["trade", "trade unheard", "deliver", "show", "begin", "account", "read"])


class Story(Hub):
    """A broker that trades one unit at one dollar each, tells of it late or never, and shows it late."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.trades = self.heard = self.visible = 0  # REST shows account and activities as of one moment
        self.told: set[str] = set()
        self.lost: set[str] = set()
        self.begun: tuple[readings.Mark, int] | None = None
        self.at_account = 0
        self.start(account=an_account(cash="1000"))

    def step(self, step: str) -> None:
        match step:
            case "trade":
                self.trades += 1
            case "trade unheard" if self.heard == self.trades:
                self.lost.add(f"e{self.trades}")
                self.trades += 1
                self.heard += 1
            case "deliver" if self.heard < self.trades:
                self.told.add(f"e{self.heard}")
                held, at = str(self.heard + 1), from_ms(NOW + self.heard)
                self.hear(a_fill(f"e{self.heard}", qty="1", price="1", position_qty=held, timestamp=at, order=DONE))
                self.heard += 1
            case "show":
                self.visible = self.trades
            case "begin":
                self.begun = (self.begin(), self.visible)
                self.at_account = self.visible
            case "account":
                self.at_account = self.visible
            case "read" if self.begun is not None:
                self.end_reading(*self.begun)

    def end_reading(self, mark: readings.Mark, at_begin: int) -> None:
        self.begun, at_start = None, self.at_account
        fills = [(f"e{number}", NOW + number) for number in range(self.visible)]
        parts = {"account": an_account(cash=str(1000 - at_start)), "positions": (a_position(qty=str(at_start)),)}
        reading = self.read(mark, *fills, **parts, before=[name for name, _ in fills[:at_begin]])
        if self.judge(reading) is Verdict.ACCEPT:
            self.accept(reading)
            assert at_start == self.visible  # nothing was executed that one part shows and another does not
            assert self.told <= {f"e{number}" for number in range(at_start)}
            assert self.mirror.balance == 1000 - at_start
            assert sum(each.units for each in self.mirror.positions.values()) == at_start


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_cash_is_true_and_each_execution_noted_once_when_anything_interleaves(steps: list[str]) -> None:
    story = Story()
    for step in [*steps, *["deliver"] * 40, "show", "begin", "read", "begin", "read"]:
        story.step(step)
    assert story.mirror.balance == 1000 - story.trades
    names = [fill.execution_id for fill in story.mirror.fills]
    assert len(names) == len(set(names)) == min(story.trades, REMEMBERED_FILLS)
    recovered = {fill.execution_id for fill in story.mirror.fills if fill.recovered}
    if story.trades <= REMEMBERED_FILLS:
        assert story.lost <= recovered


def test_memory_stays_bounded_when_executions_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "REMEMBERED", 10)
    monkeypatch.setattr(readings, "REMEMBERED_ORDERS", 10)
    hub = Hub()
    hub.start()
    for number in range(50):
        order = an_order(id=f"o{number}", status="filled" if number % 2 else "new")
        hub.hear(a_fill(f"e{number}", order=order))
        reading = hub.read(hub.begin(), ("e0", NOW), (f"e{number}", NOW))
        hub.judge(reading)
        hub.accept(reading)
    sizes = [len(getattr(hub.memory, name)) for name in ("_included", "_pending", "_recent", "_working", "_gone")]
    assert max(sizes) <= 10
    assert not any(fill.recovered for fill in hub.mirror.fills)
    assert hub.memory.included("e0")  # still looked at: forgotten last
    assert not hub.memory.included("e5")
