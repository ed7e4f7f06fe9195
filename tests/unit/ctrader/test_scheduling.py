"""The request scheduler under virtual time: the budget holds in every window, and the classes keep their order."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.brokers.ctrader.scheduling import SILENT_S, Priority, Request, Scheduler, market_class
from core.errors import Unavailable

TRADER, RECONCILE, AUTH, DEALS = 2121, 2124, 2102, 2133

Make = Callable[..., Request[None]]


@pytest.fixture
def make() -> Make:
    number = iter(range(1_000_000))

    def build(kind: int = TRADER, priority: Priority = Priority.SNAPSHOT, deadline: float = 1e9) -> Request[None]:
        return Request(kind, b"payload", priority, deadline, f"{next(number):06}", None)

    return build


def scheduler(rate: int = 45, history: int = 4, in_flight: int = 20, queue: int = 10_000) -> Scheduler[None]:
    return Scheduler(rate, history, in_flight, queue)


@dataclass
class Run:
    """What left, when, when the broker may have counted it, and when it was answered."""

    sent: list[tuple[float, Request[None]]]
    counted: list[float]


def run(plan: Scheduler[None], answer_after: Callable[[int], float], until: float) -> Run:
    """Drive a scheduler as the shell does. The broker may count a request as late as it answers it."""
    now, log = 0.0, Run([], [])
    answers: list[tuple[float, Request[None]]] = []
    while now <= until:
        for at, request in sorted(answers, key=lambda one: one[0]):
            if at <= now:
                plan.answered(request, at)
                answers.remove((at, request))
        plan.overdue(now)
        while (request := plan.take(now)) is not None:
            delay = answer_after(len(log.sent))
            log.sent.append((now, request))
            log.counted.append(now + min(delay, 2.0))
            answers.append((now + delay, request))
        wake = plan.wake_at(now)
        times = [at for at, _ in answers] + ([wake] if wake is not None else [])
        if not times:
            break
        now = max(min(times), now + 1e-6)
    return log


def most_in_a_second(times: list[float]) -> int:
    times = sorted(times)
    return max((sum(1 for other in times if start <= other < start + 1.0) for start in times), default=0)


def test_rate_is_kept_in_every_second_when_a_storm_is_queued(make: Make) -> None:
    plan = scheduler()
    for _ in range(300):
        plan.submit(make(), 0.0)
    log = run(plan, lambda _: 0.02, until=60.0)
    assert len(log.sent) == 300
    assert most_in_a_second([at for at, _ in log.sent]) == 45
    assert log.sent[-1][0] == pytest.approx(300 // 45 * 1.002, abs=0.2)


@settings(max_examples=300, deadline=None)
@given(
    delays=st.lists(st.floats(0.001, 1.9), min_size=1, max_size=20),
    first_delay=st.floats(0.001, 1.9),
    first_deadline=st.sampled_from([0.1, 1.1, 1e9]),
    impatient=st.integers(0, 60),
    rate=st.sampled_from([9, 18, 45]),
    requests=st.integers(1, 120),
)
def test_broker_never_counts_more_than_its_limit_when_the_network_stalls_and_bunches(
    delays: list[float], first_delay: float, first_deadline: float, impatient: int, rate: int, requests: int
) -> None:
    """Whether anybody still waits for an answer or not."""
    plan = scheduler(rate)
    for number in range(requests):
        deadline = first_deadline if number < impatient else 1e9
        plan.submit(Request(TRADER, b"", Priority.SNAPSHOT, deadline, f"{number:06}", None), 0.0)
    log = run(plan, lambda n: first_delay if n < impatient else delays[n % len(delays)], until=1e6)
    assert len(log.sent) >= requests - impatient
    assert most_in_a_second([at for at, _ in log.sent]) <= rate
    assert most_in_a_second(log.counted) <= rate + -(-rate // 9)


def test_a_place_is_kept_by_what_nobody_waits_for_any_more_until_it_is_answered(make: Make) -> None:
    """Sent just before its deadline, it may reach the broker after that."""
    plan = scheduler(rate=9, in_flight=100)
    late = [make(deadline=0.1) for _ in range(9)]
    for request in [*late, *(make() for _ in range(20))]:
        plan.submit(request, 0.0)
    assert [plan.take(0.0) for _ in late] == late
    assert plan.overdue(0.1) == late
    assert plan.take(1.2) is not None  # the broker's limit is ten
    assert plan.take(1.2) is None
    for request in late:
        plan.answered(request, 1.5)
    assert plan.take(2.4) is None
    assert plan.take(2.6) is not None


def test_what_is_never_answered_is_forgotten_in_the_end(make: Make) -> None:
    plan = scheduler()
    lost = make(deadline=0.1)
    plan.submit(lost, 0.0)
    assert plan.take(0.0) is lost
    assert plan.overdue(0.1) == [lost]
    assert plan.forgotten(SILENT_S - 0.1) == []
    assert plan.forgotten(SILENT_S) == [lost]
    assert plan.in_flight == 0


def test_history_has_a_budget_of_its_own_when_both_are_full(make: Make) -> None:
    plan = scheduler()
    for _ in range(60):
        plan.submit(make(DEALS, Priority.HISTORY), 0.0)
        plan.submit(make(TRADER), 0.0)
    sent = run(plan, lambda _: 0.001, until=1.0).sent
    assert sum(1 for _, request in sent if request.payload_type == DEALS) == 4
    assert sum(1 for _, request in sent if request.payload_type == TRADER) == 45


def test_classes_leave_in_order_when_all_wait(make: Make) -> None:
    plan = scheduler(in_flight=100)
    classes = [
        Priority.RECONCILE,
        Priority.MARKET,
        Priority.SNAPSHOT,
        Priority.AUTH,
        Priority.AUTH_AT_RISK,
        Priority.LOGOUT,
        Priority.ORDER,
    ]
    for kind, priority in enumerate(classes):
        plan.submit(make(kind, priority), 0.0)
    left = [plan.take(0.0) for _ in classes]
    assert [request.priority for request in left if request is not None] == sorted(classes)


def test_oldest_leaves_first_when_payload_types_differ_within_a_class(make: Make) -> None:
    plan = scheduler()
    waiting = [make(kind) for kind in (RECONCILE, TRADER, RECONCILE)]
    for request in waiting:
        plan.submit(request, 0.0)
    assert [plan.take(0.0) for _ in waiting] == waiting


def test_orders_and_probes_use_the_reserve_when_the_rate_is_spent(make: Make) -> None:
    plan = scheduler(in_flight=1000)
    for _ in range(60):
        plan.submit(make(), 0.0)
    while plan.take(0.0) is not None:
        pass
    order = make(2106, Priority.ORDER)
    plan.submit(order, 0.1)
    assert plan.take(0.1) is order
    assert plan.take(0.1) is None


def test_in_flight_cap_holds_others_but_not_orders_when_nothing_is_answered(make: Make) -> None:
    plan = scheduler(in_flight=3)
    for _ in range(5):
        plan.submit(make(), 0.0)
    taken = [plan.take(0.0) for _ in range(5)]
    assert [request is not None for request in taken] == [True, True, True, False, False]
    plan.submit(make(2106, Priority.ORDER), 0.0)
    assert plan.take(0.0) is not None
    first = taken[0]
    assert first is not None
    plan.settle(first, 0.5)
    assert plan.take(0.5) is None  # the order still counts
    second = taken[1]
    assert second is not None
    plan.settle(second, 0.5)
    assert plan.take(0.5) is not None


def test_slow_answer_frees_its_place_when_two_seconds_have_passed(make: Make) -> None:
    plan = scheduler(in_flight=2)
    for _ in range(3):
        plan.submit(make(), 0.0)
    assert plan.take(0.0) is not None
    later = plan.take(0.1)
    assert later is not None
    plan.answered(later, 0.2)
    assert plan.take(0.2) is not None
    plan.submit(make(), 0.2)
    assert plan.take(1.9) is None
    wake = plan.wake_at(1.9)
    assert wake is not None
    assert wake <= 2.0
    assert plan.take(2.0) is not None


def test_nothing_more_leaves_when_the_broker_has_answered_nothing_for_seconds(make: Make) -> None:
    """It may be behind, and would count everything at once when it goes on."""
    plan = scheduler(in_flight=20)
    for _ in range(100):
        plan.submit(make(deadline=1e9), 0.0)
    sent = []
    now = 0.0
    while now < SILENT_S:
        while (request := plan.take(now)) is not None:
            sent.append(request)
        now += 0.1
    assert len(sent) == 20
    wake = plan.wake_at(5.0)
    assert wake == pytest.approx(SILENT_S)
    assert plan.take(SILENT_S) is not None


def test_answer_to_an_earlier_request_says_nothing_of_those_after_it(make: Make) -> None:
    """It may have come just before the broker fell behind."""
    plan = scheduler(in_flight=2)
    for _ in range(3):
        plan.submit(make(deadline=1e9), 0.0)
    first = plan.take(0.0)
    assert first is not None
    assert plan.take(0.1) is not None
    plan.answered(first, 0.3)
    assert plan.take(0.3) is not None  # the third
    plan.submit(make(deadline=1e9), 0.3)
    assert plan.take(5.0) is None
    assert plan.take(SILENT_S + 0.1) is not None


def test_request_is_overdue_when_its_deadline_passes_in_the_queue_or_unanswered(make: Make) -> None:
    plan = scheduler(in_flight=1)
    sent, queued, patient = make(deadline=5.0), make(deadline=3.0), make(deadline=19.0)
    for request in (sent, queued, patient):
        plan.submit(request, 0.0)
    assert plan.take(0.0) is sent
    assert plan.overdue(2.9) == []
    assert plan.overdue(3.0) == [queued]
    assert plan.overdue(5.0) == [sent]
    assert plan.take(5.0) is None  # the broker may not have counted it yet
    assert plan.take(SILENT_S) is patient
    assert queued.sent_at is None


def test_paused_payload_type_waits_and_others_pass_when_it_is_blocked(make: Make) -> None:
    plan = scheduler()
    plan.pause(RECONCILE, 4.0, 0.0)
    blocked, free = make(RECONCILE), make(TRADER)
    plan.submit(blocked, 0.0)
    plan.submit(free, 0.0)
    assert plan.take(0.0) is free
    assert plan.take(3.9) is None
    assert plan.wake_at(3.9) == pytest.approx(4.0)
    assert plan.take(4.0) is blocked


def test_everything_but_orders_waits_when_the_whole_channel_is_paused(make: Make) -> None:
    plan = scheduler()
    plan.pause(None, 2.0, 0.0)
    plan.submit(make(), 0.0)
    plan.submit(make(2106, Priority.ORDER), 0.0)
    first = plan.take(0.0)
    assert first is not None
    assert first.priority is Priority.ORDER
    assert plan.take(1.9) is None
    assert plan.take(2.0) is not None


def test_queue_refuses_when_it_is_full(make: Make) -> None:
    plan = scheduler(queue=2)
    plan.submit(make(), 0.0)
    plan.submit(make(), 0.0)
    with pytest.raises(Unavailable):
        plan.submit(make(), 0.0)


def test_given_up_request_is_not_sent_when_its_turn_comes(make: Make) -> None:
    plan = scheduler()
    gone, next_one = make(), make()
    plan.submit(gone, 0.0)
    plan.submit(next_one, 0.0)
    plan.settle(gone, 0.0)
    assert plan.take(0.0) is next_one
    assert plan.queued == 0


def test_drain_returns_everything_unsettled_when_the_channel_ends(make: Make) -> None:
    plan = scheduler(in_flight=1)
    sent, queued = make(), make()
    plan.submit(sent, 0.0)
    plan.submit(queued, 0.0)
    plan.take(0.0)
    assert set(plan.drain(1.0)) == {sent, queued}
    assert plan.take(1.0) is None
    assert plan.in_flight == 0
    assert plan.queued == 0


def test_market_data_of_a_login_is_not_overtaken_by_the_snapshots_of_later_logins(make: Make) -> None:
    plan = scheduler(rate=1)
    mine = make(priority=market_class(live=False))
    later = [make(priority=Priority.SNAPSHOT) for _ in range(5)]
    of_a_live_one = make(priority=market_class(live=True))
    for request in (of_a_live_one, mine, *later):
        plan.submit(request, 0.0)
    left = [request for _, request in run(plan, lambda _: 0.01, 20.0).sent]
    assert left == [mine, *later, of_a_live_one]
