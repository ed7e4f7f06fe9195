"""The flush plan in virtual time: when entries fall due, in which order they are taken, and that nothing grows."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.cache.entry import Entry
from bridge.cache.planning import JITTER, RENEWALS_PER_INTERVAL, URGENT_DELAY_S, FlushMode, FlushPlan
from tests.unit.cache.builders import Source

INTERVAL_S = 2.0


class Still(Random):
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def make_plan(
    rng: Random | None = None, mode: FlushMode = FlushMode.CHANGED, interval_s: float = INTERVAL_S
) -> FlushPlan:
    return FlushPlan(interval_s=interval_s, mode=mode, rng=rng or Still(), now=0.0)


def make_entries(count: int, keys: int = 1) -> list[Entry]:
    return [Entry(tuple(f"{n}.{k}" for k in range(keys)), Source()) for n in range(count)]


def test_flushes_fall_at_two_four_six_when_there_is_no_jitter() -> None:
    plan = make_plan()
    times = []
    for _ in range(3):
        at = plan.wake_at()
        assert not plan.tick(at - 0.001, [])
        assert plan.tick(at, [])
        times.append(at)
    assert times == [2.0, 4.0, 6.0]


def test_intervals_spread_over_a_tenth_both_ways_when_there_is_jitter() -> None:
    plan = make_plan(Random(5))
    waits, now = [], 0.0
    for _ in range(500):
        at = plan.wake_at()
        waits.append(at - now)
        plan.tick(at, [])
        now = at
    assert min(waits) >= INTERVAL_S * (1 - JITTER) - 1e-6
    assert max(waits) <= INTERVAL_S * (1 + JITTER) + 1e-6
    assert max(waits) - min(waits) > INTERVAL_S * JITTER


def test_an_entry_is_taken_once_when_it_was_marked_many_times() -> None:
    plan = make_plan()
    [entry] = make_entries(1)
    for _ in range(1000):
        plan.mark(entry)
    assert plan.take(500) == []
    plan.tick(2.0, [])
    assert plan.take(500) == [entry]
    assert entry.in_flight
    assert not entry.dirty
    plan.tick(4.0, [])
    assert plan.take(500) == []


def test_a_mark_during_the_flush_is_not_lost() -> None:
    plan = make_plan()
    [entry] = make_entries(1)
    plan.mark(entry)
    plan.tick(2.0, [])
    plan.take(500)
    plan.mark(entry)
    plan.tick(4.0, [])
    assert plan.take(500) == [entry]


def test_urgent_entries_come_first_and_within_a_tenth_of_a_second() -> None:
    plan = make_plan()
    ordinary, urgent = make_entries(2)
    plan.mark(ordinary)
    plan.mark(urgent)
    plan.urge(urgent, 0.5)
    assert plan.wake_at() == 0.5 + URGENT_DELAY_S <= 0.6
    assert plan.take(500) == [urgent]
    assert plan.wake_at() == 2.0
    plan.urge(urgent, 1.9)
    plan.tick(2.0, [])
    assert plan.take(500) == [urgent, ordinary]


def test_chunks_count_keys_when_entries_have_copies() -> None:
    plan = make_plan()
    entries = make_entries(300, keys=2)
    plan.mark_due(entries)
    chunks = [plan.take(500), plan.take(500), plan.take(500)]
    assert [len(chunk) for chunk in chunks] == [250, 50, 0]
    assert [entry for chunk in chunks for entry in chunk] == entries


def test_an_entry_that_was_not_accepted_is_dirty_again() -> None:
    plan = make_plan()
    entries = make_entries(3)
    plan.mark_due(entries)
    taken = plan.take(500)
    plan.put_back(taken)
    assert all(entry.dirty and not entry.in_flight for entry in entries)
    plan.tick(2.0, [])
    assert plan.take(500) == entries


def test_every_live_entry_is_due_at_every_interval_in_always_mode() -> None:
    plan = make_plan(mode=FlushMode.ALWAYS)
    live, stale = make_entries(2)
    live.live = True
    for now in (2.0, 4.0):
        plan.tick(now, [live, stale])
        assert plan.take(500) == [live]


def test_a_fenced_or_forgotten_entry_is_never_taken() -> None:
    plan = make_plan()
    fenced, forgotten = make_entries(2)
    for entry in (fenced, forgotten):
        plan.mark(entry)
        plan.urge(entry, 0.0)
        plan.recorded(entry, fresh_for_s=10, now=0.0)
        plan.forget(entry)
    fenced.fenced = True
    plan.mark(fenced)
    plan.urge(fenced, 0.0)
    plan.mark_due([fenced])
    plan.tick(2.0, [])
    assert plan.take(500) == []
    assert plan.renewals(100.0, 500) == []


@pytest.mark.parametrize(("fresh_for_s", "latest"), [(10.0, 6.0), (60.0, 56.0), (7.5, 3.5)])
def test_a_renewal_falls_due_before_two_intervals_are_left(fresh_for_s: float, latest: float) -> None:
    plan = make_plan()
    [entry] = make_entries(1)
    plan.recorded(entry, fresh_for_s=fresh_for_s, now=0.0)
    now, found = 0.0, []
    while not found and now < 100:
        now = plan.wake_at()
        plan.tick(now, [])
        found = plan.renewals(now, 500)
    assert found == [entry]
    assert now <= latest
    assert now >= latest - INTERVAL_S


def test_nothing_is_renewed_when_the_record_cannot_look_fresh() -> None:
    plan = make_plan()
    [entry] = make_entries(1)
    plan.recorded(entry, fresh_for_s=10, now=0.0)
    plan.recorded(entry, fresh_for_s=None, now=1.0)
    assert plan.renewals(1000.0, 500) == []


def test_a_renewal_is_never_looked_for_at_once_when_little_freshness_is_left() -> None:
    plan = make_plan()
    [entry] = make_entries(1)
    plan.recorded(entry, fresh_for_s=0.1, now=0.0)
    assert plan.renewals(0.1, 500) == []
    assert plan.wake_at() == INTERVAL_S / RENEWALS_PER_INTERVAL
    assert plan.renewals(INTERVAL_S / RENEWALS_PER_INTERVAL, 500) == [entry]


def test_renewals_come_in_slices_when_many_fall_due_at_once() -> None:
    plan = make_plan()
    entries = make_entries(1200)
    for entry in entries:
        plan.recorded(entry, fresh_for_s=10, now=0.0)
    slices = []
    while found := plan.renewals(6.0, 500):
        slices.append(found)
    assert [len(found) for found in slices] == [500, 500, 200]
    assert {entry for found in slices for entry in found} == set(entries)


@given(
    st.lists(
        st.tuples(st.sampled_from(["mark", "urge", "due", "take", "back", "tick"]), st.integers(0, 7)), max_size=80
    )
)
def test_whatever_is_marked_is_taken_exactly_until_it_is_marked_again(steps: list[tuple[str, int]]) -> None:
    plan = make_plan()
    entries = make_entries(8)
    wanted: set[Entry] = set()
    now = 0.0
    last: list[Entry] = []
    for step, number in steps:
        entry = entries[number]
        match step:
            case "mark":
                plan.mark(entry)
                wanted.add(entry)
            case "urge":
                plan.urge(entry, now)
                wanted.add(entry)
            case "due":
                plan.mark_due([entry])
                wanted.add(entry)
            case "tick":
                now += INTERVAL_S
                plan.tick(now, entries)
            case "take":
                last = plan.take(number)
                assert len(last) == len(set(last)) <= number
                assert set(last) <= wanted
                wanted -= set(last)
            case "back":
                plan.put_back(last)
                wanted |= set(last)
                last = []
    plan.tick(now + 2 * INTERVAL_S, entries)
    assert set(plan.take(500)) == wanted
    assert plan.take(500) == []


def test_a_renewal_put_off_is_not_due_at_once_when_rounding_favours_now() -> None:
    """31 x 0.075 s divides back to less than 31: the next look must still lie ahead, or the loop never ends."""
    plan = make_plan(interval_s=0.3)
    [entry] = make_entries(1)
    now = 31 * (0.3 / RENEWALS_PER_INTERVAL)
    plan.renew_later(entry, now)
    assert plan.renewals(now, 500) == []
    assert plan.renewals(now + 1, 500) == [entry]


def test_the_renewal_heap_stays_small_when_horizons_flip_for_days() -> None:
    """An account that opens and closes positions all day moves its renewal earlier again and again."""
    plan = make_plan()
    [entry] = make_entries(1)
    for step in range(20_000):
        now = step * 1.5
        plan.renewals(now, 500)
        plan.recorded(entry, fresh_for_s=60.0 if step % 2 else 10.0, now=now)
        assert len(plan._renewals) <= 60 / 3.0 + 2, "one live item, and the dead ones of the last minute"


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([None, 10.0, 60.0]), st.floats(0.1, 3)), max_size=200))
def test_the_renewal_heap_is_empty_after_everything_fell_due(steps: list[tuple[int, float | None, float]]) -> None:
    plan = make_plan()
    entries = make_entries(5)
    wanted: dict[Entry, float | None] = {}
    now = 0.0
    for number, fresh_for_s, wait in steps:
        now += wait
        for found in plan.renewals(now, 500):
            assert wanted.pop(found) is not None
        plan.recorded(entries[number], fresh_for_s=fresh_for_s, now=now)
        wanted[entries[number]] = fresh_for_s
    live = {entry for entry, fresh_for_s in wanted.items() if fresh_for_s is not None}
    assert set(plan.renewals(now + 120, 10_000)) == live
    assert plan._renewals == []
