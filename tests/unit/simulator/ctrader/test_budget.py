"""The budget of one connection is strict in every rolling second."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.simulator.ctrader.budget import Budget, Refusal, Window


@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.floats(0, 0.4, allow_nan=False), max_size=200),
)
def test_no_rolling_second_holds_more_than_the_limit_when_requests_come_at_any_pace(
    limit: int, steps: list[float]
) -> None:
    window, now, accepted = Window(limit), 0.0, []
    for step in steps:
        now += step
        if window.admit(now):
            accepted.append(now)
    for index, at in enumerate(accepted):
        assert sum(1 for each in accepted[index:] if each - at < 1.0) <= limit


def test_a_full_window_opens_again_when_its_oldest_request_is_a_second_old() -> None:
    window = Window(2)
    assert [window.admit(at) for at in (0.0, 0.5, 0.9, 0.999, 1.0, 1.4, 1.5)] == [
        True,
        True,
        False,
        False,
        True,
        False,
        True,
    ]


def test_a_payload_type_is_blocked_when_the_client_insists_within_a_second() -> None:
    budget = Budget(1, 1)
    answers = [budget.check(2121, False, at) for at in (0.0, 0.1, 0.2, 0.5, 1.3)]
    assert answers == [None, Refusal(None), Refusal(1), Refusal(1), None]


def test_other_payload_types_stay_free_when_one_is_blocked() -> None:
    budget = Budget(2, 1)
    for at in (0.0, 0.1, 0.2, 0.3):
        budget.check(2121, False, at)
    assert budget.check(2121, False, 1.15) == Refusal(1)
    assert budget.check(2124, False, 1.15) is None


def test_history_does_not_eat_the_ordinary_budget_when_it_is_exhausted() -> None:
    budget = Budget(1, 1)
    assert budget.check(2133, True, 0.0) is None
    assert budget.check(2133, True, 0.1) == Refusal(None)
    assert budget.check(2121, False, 0.1) is None
