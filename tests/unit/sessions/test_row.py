"""One row: its size, its reading, and what it keeps when the broker's side is gone."""

import asyncio
import gc
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest

from bridge.brokers.base import Environment, FaultKind, Reason, ReasonCode
from bridge.cache.entry import Entry
from bridge.cache.record import RecordStatus, make_record
from bridge.runtime.clock import ManualClock
from bridge.sessions.session import Session
from bridge.sessions.states import State
from bridge.sessions.views import Evidence
from core.user_key import UserKeys
from tests.support.fake_broker import FakeAccount, FakeBroker, a_position, fault
from tests.unit.sessions.world import World, key_of, settle

ROW_LIMIT = 2048


class _Desk:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.recorder: Any = None
        self.refusals: list[Session] = []

    def refused(self, session: Session) -> None:
        self.refusals.append(session)

    def staged(self, session: Session, stage: object) -> None: ...

    def lost(self, session: Session, fault: object) -> None: ...


def _row(desk: _Desk, number: int = 1) -> Session:
    keys = UserKeys(f"{number:064x}")
    return Session(
        number,
        user_id=f"user-{number}@example.org",
        user_keys=keys,
        broker="fake",
        environment=Environment.DEMO,
        account_id=f"{number:08d}",
        keys=(f"fake_account_{keys.canonical}",),
        desk=desk,  # type: ignore[arg-type]
    )


def test_row_stays_below_its_limit_when_it_has_seen_the_worst() -> None:
    desk = _Desk()
    rows: list[Session] = []
    gc.collect()
    tracemalloc.start()
    for number in range(1000):
        row = _row(desk, number)
        for code in ("connection_lost", "broker_unreachable", "rate_limited"):
            row.remember(Evidence(10**12 + number, "live", "transient", code, "one sentence", f"X{number}", None))
        row.as_of_ms = row.last_event_at_ms = 10**12 + number
        row.next_attempt_at_ms = row.since_ms = 10**12 + 2 * number
        row.live_since = row.waiting_since = float(number) + 0.5
        rows.append(row)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 1000
    assert size / 1000 < ROW_LIMIT
    assert not hasattr(rows[0], "__dict__")


@pytest.mark.looptime
async def test_reading_tells_when_the_broker_was_last_heard_also_after_the_loss(world: World) -> None:
    await world.live()
    heard_at = world.clock.now_ms()
    row = world.row()
    await _pass(world, 3)
    reading = row.reading()
    assert (reading.status, reading.reason, reading.as_of_ms) == (RecordStatus.LIVE, None, heard_at)
    assert reading.mirror is world.broker.mirrors["acc-u"]
    world.broker.account("acc-u").lose(fault(retry_after_s=30, shared=True))
    await settle()
    await _pass(world, 3)
    reading = row.reading()
    assert (reading.status, reading.as_of_ms) == (RecordStatus.STALE, heard_at)
    assert reading.reason == row.reason
    assert reading.mirror is world.broker.mirrors["acc-u"]  # the numbers stay


@pytest.mark.looptime
@pytest.mark.parametrize("end", ["stop", "refused"])
async def test_numbers_stay_still_after_the_end_although_others_share_the_account(world: World, end: str) -> None:
    world.broker.hold_position("acc-u")
    await world.live()
    shared = world.broker.mirrors["acc-u"]
    shared.balance = Decimal(100)
    shared.set_quote("10", 5, 6)
    if end == "stop":
        await world.stop()
    else:
        world.broker.account("acc-u").lose(fault(FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED))
        await settle()
    shared.balance = Decimal(999)
    shared.set_quote("10", 7, 8)
    shared.positions["1"].swap = Decimal(-5)
    shared.positions["2"] = a_position()
    kept = world.row().reading().mirror
    assert kept is not None
    assert kept.balance == Decimal(100)
    assert (kept.quotes["10"].bid, kept.positions["1"].swap, len(kept.positions)) == (5, Decimal(0), 1)
    record = make_record(world.row().reading(), fence=1, version=1, now_ms=world.clock.now_ms())
    assert record.live is False


def test_refusal_of_an_entry_replaced_since_means_nothing() -> None:
    desk = _Desk()
    row = _row(desk)
    row.fenced(7)
    assert desk.refusals == []

    row.entry = Entry(("k",), row, fence=9)
    row.fenced(8)
    row.fenced(9)
    assert desk.refusals == []
    row.fenced(10)
    assert desk.refusals == [row]


def test_uptime_is_the_share_of_time_live_since_start_until_stop() -> None:
    desk = _Desk()
    row = _row(desk)
    now = row.started_at
    assert row.uptime_percent(now) == 0.0
    row.live_before_s, row.live_since = 30.0, now + 70
    assert row.uptime_percent(now + 100) == 60.0
    row.live_since, row.live_before_s, row.ended_at = None, 60.0, now + 100
    assert row.uptime_percent(now + 1000) == 60.0


def test_events_are_counted_over_every_account_session() -> None:
    broker, desk = FakeBroker(), _Desk()
    row = _row(desk)
    for _ in range(2):
        account = FakeAccount(broker, Environment.DEMO, "a", row)
        account.mirror = broker.mirror("a", Environment.DEMO)
        broker.mirrors.clear()
        row.account = account
        for tick in range(5):
            account.mirror.set_quote("1", tick, tick)
        row.drop_account()
    assert row.events == 10


def test_fenced_row_still_answers_a_reading() -> None:
    row = _row(_Desk())
    row.state, row.reason = State.FENCED, Reason(ReasonCode.FENCED, "x")
    assert row.reading().status is RecordStatus.STALE


@pytest.mark.looptime
async def test_change_of_the_mirror_marks_the_record_once_until_it_is_read(world: World) -> None:
    await world.live()
    mirror = world.broker.mirrors["acc-u"]
    marks = world.recorder.marks
    for tick in range(100):
        mirror.set_quote("1", tick, tick)
    assert world.recorder.marks == marks + 1
    mirror.clean()
    mirror.set_quote("1", 1, 2)
    assert world.recorder.marks == marks + 2
    assert world.view().last_event_at == world.clock.now_ms()
    written = len(world.recorder.written[key_of()])
    world.row().changed(urgent=True)
    assert len(world.recorder.written[key_of()]) == written + 1


async def _pass(world: World, seconds: float) -> None:

    await asyncio.sleep(seconds)
