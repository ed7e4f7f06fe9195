"""Slots: one connection per key, held for a while by clients that vanished."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.simulator.alpaca.streams.slots import Slots


def test_a_second_connection_is_refused_while_the_first_is_open() -> None:
    slots = Slots(1, 90)
    assert slots.take("a", "first", 0)
    assert not slots.take("a", "second", 1)
    assert slots.take("b", "second", 1)


def test_who_has_a_slot_keeps_it_when_it_asks_again() -> None:
    slots = Slots(1, 90)
    assert slots.take("a", "first", 0)
    assert slots.take("a", "first", 1)
    assert slots.open_count("a") == 1


def test_a_slot_is_free_at_once_when_the_end_was_orderly() -> None:
    slots = Slots(1, 90)
    slots.take("a", "first", 0)
    slots.give_back("a", "first", 10, orderly=True)
    assert slots.take("a", "second", 10)


def test_a_slot_is_held_for_its_time_when_the_client_vanished() -> None:
    slots = Slots(1, 90)
    slots.take("a", "first", 0)
    slots.give_back("a", "first", 10, orderly=False)
    assert slots.open_count("a") == 0
    assert slots.is_busy("a", 99.9)
    assert not slots.take("a", "second", 99.9)
    assert slots.take("a", "second", 100)


def test_held_slots_can_be_released_before_their_time() -> None:
    slots = Slots(1, 90)
    slots.hold("a", 90)
    slots.hold("b", 90)
    slots.release_held("a")
    assert not slots.is_busy("a", 0)
    assert slots.is_busy("b", 0)
    slots.release_held()
    assert not slots.is_busy("b", 0)


def test_any_number_may_come_when_there_is_no_limit() -> None:
    slots = Slots(None, 90)
    assert all(slots.take("a", number, 0) for number in range(50))


def test_giving_back_changes_nothing_when_one_holds_no_slot() -> None:
    slots = Slots(1, 90)
    slots.give_back("a", "stranger", 0, orderly=False)
    assert not slots.is_busy("a", 0)


@given(
    limit=st.integers(1, 3),
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.booleans(), st.integers(0, 50)), max_size=60
    ),
)
def test_open_and_held_never_exceed_the_limit(limit: int, steps: list[tuple[str, int, bool, int]]) -> None:
    slots, now = Slots(limit, 90), 0.0
    open_by_key: dict[str, set[int]] = {}
    held: dict[str, list[float]] = {}
    for key, who, orderly, passes in steps:
        now += passes
        mine = open_by_key.setdefault(key, set())
        ends = held[key] = [end for end in held.get(key, []) if end > now]
        if who in mine:
            slots.give_back(key, who, now, orderly=orderly)
            mine.discard(who)
            if not orderly:
                ends.append(now + 90)
        else:
            expected = len(mine) + len(ends) < limit
            assert slots.take(key, who, now) is expected
            if expected:
                mine.add(who)
        slots.tick(now)
        assert slots.open_count(key) == len(mine)
        assert slots.is_busy(key, now) is (len(mine) + len(ends) >= limit)
