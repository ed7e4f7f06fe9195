"""The queue: order, slots, and that nobody is lost, doubled or overtaken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.sessions.admission import Admission
from bridge.sessions.timers import TimerHeap

LANE = ("fake", "demo")


def test_those_at_risk_go_first_then_those_who_wait_longest_when_a_slot_is_free() -> None:
    queue: Admission[str] = Admission()
    for name, at_risk, since in (("d", False, 5.0), ("b", True, 9.0), ("c", False, 1.0), ("a", True, 2.0)):
        queue.enqueue(LANE, name, at_risk=at_risk, since=since)
    assert [queue.position(LANE, name) for name in "abcd"] == [1, 2, 3, 4]
    assert queue.admit(LANE, 4) == ["a", "b", "c", "d"]


def test_first_come_is_first_served_when_all_else_is_equal() -> None:
    queue: Admission[int] = Admission()
    for member in range(100):
        queue.enqueue(LANE, member, at_risk=False, since=0.0)
    assert queue.admit(LANE, 100) == list(range(100))


def test_the_lower_place_goes_first_when_all_waited_equally_long() -> None:
    queue: Admission[int] = Admission()
    for member in (7, 3, 9, 1):
        queue.enqueue(LANE, member, at_risk=member == 9, since=0.0, place=member)
    assert queue.admit(LANE, 4) == [9, 1, 3, 7]


def test_slots_bound_those_admitted_until_one_finishes() -> None:
    queue: Admission[int] = Admission()
    for member in range(5):
        queue.enqueue(LANE, member, at_risk=False, since=0.0)
    assert queue.admit(LANE, 2) == [0, 1]
    assert queue.admit(LANE, 2) == []
    queue.finished(LANE, 0)
    assert queue.admit(LANE, 2) == [2]
    assert (queue.running(LANE), queue.waiting(LANE)) == (2, 2)


def test_lanes_do_not_share_slots() -> None:
    queue: Admission[str] = Admission()
    queue.enqueue(LANE, "demo", at_risk=False, since=0.0)
    queue.enqueue(("fake", "live"), "live", at_risk=False, since=0.0)
    assert queue.admit(LANE, 1) == ["demo"]
    assert queue.admit(("fake", "live"), 1) == ["live"]


def test_place_is_kept_when_enqueued_again_and_moves_up_when_the_risk_changed() -> None:
    queue: Admission[str] = Admission()
    queue.enqueue(LANE, "a", at_risk=False, since=1.0)
    queue.enqueue(LANE, "b", at_risk=False, since=2.0)
    queue.enqueue(LANE, "a", at_risk=False, since=9.0)
    assert queue.position(LANE, "a") == 1
    queue.enqueue(LANE, "b", at_risk=True, since=9.0)
    assert queue.admit(LANE, 5) == ["b", "a"]


def test_withdrawn_members_are_never_admitted() -> None:
    queue: Admission[int] = Admission()
    for member in range(1000):
        queue.enqueue(LANE, member, at_risk=False, since=0.0)
    for member in range(999):
        queue.withdraw(LANE, member)
    assert queue.position(LANE, 3) is None
    assert len(queue._lanes[LANE].heap) <= 66  # swept, not only marked
    assert queue.admit(LANE, 1000) == [999]


actions = st.lists(
    st.tuples(st.sampled_from(["enqueue", "withdraw", "admit", "finish"]), st.integers(0, 5), st.booleans()),
    max_size=80,
)


@given(actions)
def test_queue_agrees_with_a_plain_model_whatever_happens(steps: list[tuple[str, int, bool]]) -> None:
    queue: Admission[int] = Admission()
    waiting: dict[int, tuple[bool, int, int]] = {}
    running: set[int] = set()
    for number, (action, member, at_risk) in enumerate(steps):
        if action == "enqueue" and member not in running:
            queue.enqueue(LANE, member, at_risk=at_risk, since=float(number % 3))
            if member not in waiting or waiting[member][0] is at_risk:
                waiting[member] = (not at_risk, number % 3, number)
        elif action == "withdraw":
            queue.withdraw(LANE, member)
            waiting.pop(member, None)
        elif action == "finish":
            queue.finished(LANE, member)
            running.discard(member)
        elif action == "admit":
            free = max(0, 2 - len(running))
            expected = sorted(waiting, key=waiting.__getitem__)[:free]
            assert queue.admit(LANE, 2) == expected
            for one in expected:
                del waiting[one]
                running.add(one)
        order = sorted(waiting, key=waiting.__getitem__)
        assert [queue.position(LANE, one) for one in order] == list(range(1, len(order) + 1))
        assert queue.running(LANE) == len(running)


def test_timers_come_in_order_and_only_once_when_due() -> None:
    epochs = {"a": 1, "b": 1, "c": 1}
    timers: TimerHeap[str] = TimerHeap(lambda member, epoch: epochs[member] == epoch)
    for due, member in ((3.0, "c"), (1.0, "a"), (2.0, "b")):
        timers.set(due, member, 1)
    epochs["b"] = 2
    assert timers.next_due() == 1.0
    assert timers.due(2.5) == ["a"]
    assert timers.due(2.5) == []
    assert timers.due(3.0) == ["c"]
    assert timers.next_due() is None


def test_timer_heap_stays_small_when_members_move_on_all_the_time() -> None:
    epoch = 0
    timers: TimerHeap[str] = TimerHeap(lambda _, set_at: set_at == epoch)
    for epoch in range(10_000):
        timers.set(1e9, "a", epoch)
    assert len(timers) < 600


@pytest.mark.parametrize("member", ["never seen"])
def test_unknown_members_and_lanes_are_no_error(member: str) -> None:
    queue: Admission[str] = Admission()
    queue.withdraw(LANE, member)
    queue.finished(LANE, member)
    assert (queue.position(LANE, member), queue.admit(LANE, 3), queue.waiting(LANE)) == (None, [], 0)


def test_those_at_risk_are_admitted_alone_when_the_others_must_wait() -> None:
    queue: Admission[str] = Admission()
    for member, at_risk in (("calm", False), ("risky", True), ("risky too", True)):
        queue.enqueue(LANE, member, at_risk=at_risk, since=0.0)
    assert queue.admit(LANE, 9, at_risk_only=True) == ["risky", "risky too"]
    assert queue.admit(LANE, 9, at_risk_only=True) == []
    assert queue.waiting(LANE) == 1
    assert queue.admit(LANE, 9) == ["calm"]
