"""The budget of one account: never over it in any window, classes in order, nobody starves, what headers say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.alpaca.budget import Budget, Priority, Ticket
from core.errors import Unavailable

RATE, RESERVE, WINDOW_S, AGING_S = 10, 2, 60.0, 15.0


def budget(**changed: float) -> Budget[int]:
    return Budget(RATE, RESERVE, WINDOW_S, changed.get("aging_s", AGING_S), int(changed.get("max_queue", 1000)))


def ask(b: Budget[int], priority: Priority, now: float, number: int = 0, wait_s: float = 1e6) -> Ticket[int]:
    ticket = Ticket(priority, now, now + wait_s, number)
    b.submit(ticket)
    return ticket


def take_all(b: Budget[int], now: float) -> list[int]:
    taken = []
    while (ticket := b.take(now)) is not None:
        b.settle(ticket)
        taken.append(ticket.context)
    return taken


LATER_S = st.sampled_from([0.0, 0.0, 0.0, 0.5]) | st.floats(0, 20)  # in bursts, mostly
REQUESTS = st.lists(st.tuples(st.sampled_from(Priority), LATER_S), min_size=1, max_size=60)


@given(REQUESTS)
def test_the_budget_is_never_exceeded_in_any_window_and_nobody_starves_when_requests_come_at_any_time(
    rows: list[tuple[Priority, float]],
) -> None:
    b, now, sent = budget(), 0.0, []
    for number, (priority, later_s) in enumerate(rows):
        due = now + later_s
        while (wake := b.wake_at(now)) is not None and wake <= due:
            now = max(wake, now)
            sent += [(now, number) for number in take_all(b, now)]
        now = due
        ask(b, priority, now, number)
        sent += [(now, number) for number in take_all(b, now)]
    while (wake := b.wake_at(now)) is not None:
        assert wake > now  # never asks to be called again at once
        now = wake
        sent += [(now, number) for number in take_all(b, now)]
    assert sorted(number for _, number in sent) == list(range(len(rows)))
    for at, _ in sent:
        window = [number for other, number in sent if at <= other < at + WINDOW_S]
        assert len(window) <= RATE + RESERVE
    for index, (_, number) in enumerate(sent):
        if rows[number][0] is not Priority.ORDER:
            assert sum(1 for at, _ in sent[:index] if at + WINDOW_S > sent[index][0]) < RATE
    for priority in Priority:
        mine = [number for _, number in sent if rows[number][0] is priority]
        assert mine == sorted(mine)  # first come, first served


def test_the_higher_class_leaves_first_when_several_wait() -> None:
    b = budget()
    for number, priority in enumerate(reversed(Priority)):
        ask(b, priority, 0.0, number)
        ask(b, priority, 0.0, number + 10)
    assert take_all(b, 0.0) == [3, 13, 2, 12, 1, 11, 0, 10]


def test_long_waiting_counts_as_a_higher_class_when_others_keep_coming() -> None:
    b = budget()
    for number in range(RATE):
        ask(b, Priority.LOGIN, 0.0, number)
    assert len(take_all(b, 0.0)) == RATE
    ask(b, Priority.RECONCILE, 1.0, 100)
    for number in range(RATE):
        ask(b, Priority.LOGIN, 50.0, 200 + number)
    assert take_all(b, WINDOW_S)[0] == 100


def test_orders_may_use_the_reserve_when_the_budget_is_spent() -> None:
    b = budget()
    for number in range(RATE):
        ask(b, Priority.POLL, 0.0, number)
    take_all(b, 0.0)
    for number in range(RESERVE + 1):
        ask(b, Priority.ORDER, 1.0, 100 + number)
    assert take_all(b, 1.0) == [100, 101]
    assert b.wake_at(1.0) == WINDOW_S


def test_what_others_used_is_spared_when_headers_tell_of_it() -> None:
    b = budget()
    first = ask(b, Priority.POLL, 0.0)
    assert b.take(0.0) is first
    b.settle(first)
    b.observe(limit=200, remaining=4, resets_at=30.0, now=0.0)
    for number in range(6):
        ask(b, Priority.POLL, 1.0, number)
    assert take_all(b, 1.0) == [0, 1]  # 4 are left, of which 2 for orders
    ask(b, Priority.ORDER, 1.0, 90)
    assert take_all(b, 1.0) == [90]
    assert b.wake_at(1.0) == 30.0
    assert take_all(b, 30.0) == [2, 3, 4, 5]


def test_what_is_on_its_way_counts_when_headers_come() -> None:
    b = budget()
    tickets = [ask(b, Priority.POLL, 0.0, number) for number in range(3)]
    while b.take(0.0) is not None:
        pass
    b.settle(tickets[0])
    b.observe(limit=200, remaining=5, resets_at=30.0, now=0.0)
    for number in range(4):
        ask(b, Priority.POLL, 0.0, 10 + number)
    assert take_all(b, 0.0) == [10]  # 5 - 2 on their way - 2 for orders


def test_an_older_header_gives_nothing_back_when_answers_overtake_one_another() -> None:
    b = budget()
    b.observe(limit=200, remaining=3, resets_at=30.0, now=0.0)
    b.observe(limit=200, remaining=100, resets_at=30.9, now=0.0)
    ask(b, Priority.POLL, 0.0, 1)
    ask(b, Priority.POLL, 0.0, 2)
    assert take_all(b, 0.0) == [1]
    b.observe(limit=200, remaining=200, resets_at=90.0, now=0.5)  # a new period
    assert take_all(b, 0.5) == [2]


def test_headers_of_the_past_mean_nothing_when_clocks_differ() -> None:
    b = budget()
    b.observe(limit=200, remaining=0, resets_at=-5.0, now=0.0)
    ask(b, Priority.POLL, 0.0, 1)
    assert take_all(b, 0.0) == [1]
    b.observe(limit=200, remaining=0, resets_at=30.0, now=1.0)
    b.observe(limit=200, remaining=100, resets_at=-5.0, now=1.0)
    ask(b, Priority.POLL, 1.0, 2)
    assert take_all(b, 1.0) == []


def test_nothing_leaves_until_the_reset_when_the_broker_refused() -> None:
    b = budget()
    b.refused(20.0)
    ask(b, Priority.ORDER, 0.0, 1)
    assert (take_all(b, 0.0), b.wake_at(0.0), take_all(b, 20.0)) == ([], 20.0, [1])


def test_a_request_is_given_up_when_its_deadline_passes_before_its_turn() -> None:
    b = budget()
    b.refused(100.0)
    late = ask(b, Priority.LOGIN, 0.0, 1, wait_s=5.0)
    ask(b, Priority.LOGIN, 0.0, 2, wait_s=500.0)
    assert b.wake_at(0.0) == 5.0
    assert b.overdue(5.0) == [late]
    assert (b.queued, take_all(b, 100.0)) == (1, [2])


def test_a_request_is_refused_when_too_many_wait() -> None:
    b = budget(max_queue=2)
    ask(b, Priority.POLL, 0.0)
    ask(b, Priority.POLL, 0.0)
    with pytest.raises(Unavailable):
        ask(b, Priority.ORDER, 0.0)


def test_giving_up_and_settling_are_harmless_when_repeated() -> None:
    b = budget()
    first, second = ask(b, Priority.POLL, 0.0, 1), ask(b, Priority.POLL, 0.0, 2)
    b.give_up(second)
    b.give_up(second)
    assert b.take(0.0) is first
    b.give_up(first)
    for _ in range(2):
        b.settle(first)
        b.settle(second)
    assert (b.queued, b.in_flight, b.wake_at(0.0)) == (0, 0, None)
