"""What counts as wrong."""

from dataclasses import dataclass

import pytest

from bridge.alerts.conditions import FAILING_S, Conditions, Signs


@dataclass
class Part:
    state: str
    role: str = "primary"


def read(signs: Signs, now: float = 0.0) -> dict[str, str]:
    return {key: condition.text for key, condition in Conditions().read(signs, now).items()}


def test_nothing_is_wrong_when_all_is_well() -> None:
    signs = Signs(
        stores={"redis": Part("up"), "kv": Part("unfenced", "copy")},
        brokers={"sim": Part("up"), "other": Part("idle")},
        sessions={"live": 900, "stale": 20, "stopped": 500},
        loop_lag_ms=900,
        record_age_s=60,
        problems={"audit": None},
    )
    assert read(signs) == {}


@pytest.mark.parametrize("state", ["down", "connecting"])
def test_a_store_that_is_not_up_is_told_with_its_role(state: str) -> None:
    found = read(Signs(stores={"redis": Part(state, "copy")}))
    assert found == {"store redis": "store down: redis (copy) takes no records"}


@pytest.mark.parametrize(
    ("state", "text"),
    [("down", "cannot be reached"), ("connecting", "cannot be reached"), ("maintenance", "is in maintenance")],
)
def test_a_broker_that_is_not_up_is_told(state: str, text: str) -> None:
    assert read(Signs(brokers={"sim": Part(state)})) == {"broker sim": f"broker down: sim {text}"}


def test_a_part_that_is_still_connecting_has_longer() -> None:
    conditions = Conditions().read(Signs(brokers={"a": Part("down"), "b": Part("connecting")}), 0)
    assert conditions["broker a"].grace_s < conditions["broker b"].grace_s


def test_sessions_that_need_action_are_counted_and_not_named() -> None:
    conditions = Conditions().read(Signs(sessions={"action_required": 3, "live": 1}), 0)
    assert [(each.level, each.text) for each in conditions.values()] == [
        (3, "sessions need action: 3, see /api/sessions?status=action_required")
    ]


def test_loop_lag_is_over_only_well_below_where_it_began() -> None:
    conditions = Conditions()
    seen = [bool(conditions.read(Signs(loop_lag_ms=lag), 0)) for lag in (900, 1100, 700, 501, 499, 900)]
    assert seen == [False, True, True, True, False, False]


def test_records_that_could_not_be_made_are_told_for_some_minutes_after_the_last() -> None:
    conditions = Conditions()
    assert conditions.read(Signs(record_failures=2), 0)
    assert conditions.read(Signs(record_failures=2), FAILING_S - 1)
    assert not conditions.read(Signs(record_failures=2), FAILING_S)
    assert conditions.read(Signs(record_failures=3), FAILING_S + 1)


def test_old_records_are_told_unless_the_primary_is_down_anyway() -> None:
    assert read(Signs(stores={"redis": Part("up")}, record_age_s=121)).keys() == {"records old"}
    assert read(Signs(stores={"redis": Part("down")}, record_age_s=121)).keys() == {"store redis"}


def test_many_sessions_away_are_told_unless_a_broker_is_down_anyway() -> None:
    away = {"live": 4, "stale": 3, "connecting": 2, "stopped": 99}
    assert read(Signs(sessions=away)) == {"sessions away": "sessions away: 5 of 9 are not live"}
    assert read(Signs(sessions=away, brokers={"sim": Part("down")})).keys() == {"broker sim"}
    assert read(Signs(sessions={"live": 0, "stale": 4})) == {}


def test_a_further_problem_is_told_under_its_key() -> None:
    found = read(Signs(problems={"audit": "1000 entries wait", "lease": None}))
    assert found == {"audit": "audit: 1000 entries wait"}
