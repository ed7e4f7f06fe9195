"""The table is the machine: each pair is checked against a hand-written copy of DESIGN §5."""

import itertools

import pytest

from bridge.cache.record import RecordStatus
from bridge.sessions.states import STATUS_OF, TRANSITIONS, Event, IllegalTransition, State, next_state, status_name

LOGIN = ["connecting", "authorizing", "syncing"]
WANTED = ["waiting", *LOGIN, "live", "backoff", "throttled", "refreshing", "maintenance"]
EXPECTED = {
    "start": ({"stopped", "fenced", "action_required", "suspended"}, "waiting"),
    "admitted": ({"waiting"}, "connecting"),
    "connecting": (set(LOGIN), "connecting"),
    "authorizing": (set(LOGIN), "authorizing"),
    "syncing": (set(LOGIN), "syncing"),
    "logged_in": (set(LOGIN), "live"),
    "auth_lost": ({*LOGIN, "live"}, "waiting"),
    "retry_later": ({*LOGIN, "live", "refreshing"}, "backoff"),
    "throttled": ({*LOGIN, "live", "refreshing"}, "throttled"),
    "maintenance": ({*LOGIN, "live", "refreshing"}, "maintenance"),
    "token_refused": ({*LOGIN, "live"}, "refreshing"),
    "refreshed": ({"refreshing"}, "waiting"),
    "user_needed": ({*LOGIN, "live", "refreshing"}, "action_required"),
    "due": ({"backoff", "throttled", "maintenance"}, "waiting"),
    "stop": ({*WANTED, "action_required", "draining", "fenced", "suspended"}, "stopped"),
    "fence": ({*WANTED, "action_required", "draining", "stopped", "suspended"}, "fenced"),
    "drain": ({*WANTED, "suspended"}, "draining"),
    "suspend": (set(WANTED), "suspended"),
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_transition_is_the_expected_one_when_any_event_meets_any_state(state: State, event: Event) -> None:
    allowed, target = EXPECTED[event.value]
    if state.value in allowed:
        assert next_state(state, event) is State(target)
    else:
        with pytest.raises(IllegalTransition, match=f"{event.value} .* {state.value}"):
            next_state(state, event)


def test_every_state_can_be_reached_and_left_when_it_is_not_the_end() -> None:
    assert set(TRANSITIONS.values()) == set(State)
    assert {state for state, _ in TRANSITIONS} == set(State)


def test_record_status_follows_design_when_a_state_is_shown() -> None:
    expected = {
        "waiting": "starting",
        "connecting": "connecting",
        "authorizing": "connecting",
        "syncing": "syncing",
        "live": "live",
        "backoff": "stale",
        "throttled": "stale",
        "refreshing": "stale",
        "draining": "stale",
        "suspended": "stale",
        "maintenance": "maintenance",
        "action_required": "action_required",
        "stopped": "stopped",
        "fenced": None,
    }
    assert {state.value: status and status.value for state, status in STATUS_OF.items()} == expected
    assert set(STATUS_OF.values()) == {*RecordStatus, None}
    assert status_name(State.FENCED) == "fenced"
