"""The session state machine as data: one table, and one function that reads it.

Nothing here acts, waits or keeps time. What may follow what stands in `TRANSITIONS` and nowhere else; a pair that is
not in the table is a mistake of the caller and raises. Diagram and tests are made from the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from bridge.cache.record import RecordStatus


class State(StrEnum):
    """Where a session is (DESIGN §5)."""

    WAITING = "waiting"  # in the admission queue of its lane
    CONNECTING = "connecting"  # admitted; the login task runs
    AUTHORIZING = "authorizing"
    SYNCING = "syncing"
    LIVE = "live"
    BACKOFF = "backoff"  # a timer leads back to waiting
    THROTTLED = "throttled"
    REFRESHING = "refreshing"  # until the grant's token is renewed
    MAINTENANCE = "maintenance"
    ACTION_REQUIRED = "action_required"  # until a person acts and starts it again
    DRAINING = "draining"  # this process ends
    STOPPED = "stopped"
    FENCED = "fenced"  # refused under a higher fence, or another process's
    SUSPENDED = "suspended"  # this process may not act: it cannot renew its lease


class Event(StrEnum):
    """What can happen to a session. Only the supervisor raises one."""

    START = "start"
    ADMITTED = "admitted"
    CONNECTING = "connecting"  # stages the login reports
    AUTHORIZING = "authorizing"
    SYNCING = "syncing"
    LOGGED_IN = "logged_in"
    AUTH_LOST = "auth_lost"  # authorise again, now
    RETRY_LATER = "retry_later"
    THROTTLED = "throttled"
    MAINTENANCE = "maintenance"
    TOKEN_REFUSED = "token_refused"  # noqa: S105 (a word, not a secret)
    REFRESHED = "refreshed"
    USER_NEEDED = "user_needed"
    DUE = "due"  # the timer of a waiting state
    STOP = "stop"
    FENCE = "fence"
    DRAIN = "drain"
    SUSPEND = "suspend"


class IllegalTransition(Exception):
    """This event cannot happen in this state: a programming mistake, never bad input."""


LOGIN_STATES = (State.CONNECTING, State.AUTHORIZING, State.SYNCING)
TIMED_STATES = (State.BACKOFF, State.THROTTLED, State.MAINTENANCE)
ENDED_STATES = (State.STOPPED, State.FENCED, State.DRAINING)
# a start begins anew; elsewhere it changes nothing
RESTARTABLE = (State.STOPPED, State.FENCED, State.ACTION_REQUIRED, State.SUSPENDED)
_WANTED = (State.WAITING, *LOGIN_STATES, State.LIVE, *TIMED_STATES, State.REFRESHING)

# every way in which a login or a live session can fail, and where it leads
_FAILURES = {
    Event.AUTH_LOST: State.WAITING,
    Event.RETRY_LATER: State.BACKOFF,
    Event.THROTTLED: State.THROTTLED,
    Event.MAINTENANCE: State.MAINTENANCE,
    Event.TOKEN_REFUSED: State.REFRESHING,
    Event.USER_NEEDED: State.ACTION_REQUIRED,
}


def _table() -> dict[tuple[State, Event], State]:
    table = {
        (State.WAITING, Event.ADMITTED): State.CONNECTING,
        (State.REFRESHING, Event.REFRESHED): State.WAITING,
        (State.STOPPED, Event.START): State.WAITING,
        (State.FENCED, Event.START): State.WAITING,
        (State.ACTION_REQUIRED, Event.START): State.WAITING,
        (State.ACTION_REQUIRED, Event.STOP): State.STOPPED,
        (State.ACTION_REQUIRED, Event.FENCE): State.FENCED,
        (State.DRAINING, Event.STOP): State.STOPPED,
        (State.DRAINING, Event.FENCE): State.FENCED,
        (State.STOPPED, Event.FENCE): State.FENCED,
        (State.FENCED, Event.STOP): State.STOPPED,
        (State.SUSPENDED, Event.START): State.WAITING,
        (State.SUSPENDED, Event.STOP): State.STOPPED,
        (State.SUSPENDED, Event.FENCE): State.FENCED,
        (State.SUSPENDED, Event.DRAIN): State.DRAINING,
    }
    for state in LOGIN_STATES:
        table[state, Event.CONNECTING] = State.CONNECTING
        table[state, Event.AUTHORIZING] = State.AUTHORIZING
        table[state, Event.SYNCING] = State.SYNCING
        table[state, Event.LOGGED_IN] = State.LIVE
    for state in (*LOGIN_STATES, State.LIVE):
        for failure, target in _FAILURES.items():
            table[state, failure] = target
    for failure in (Event.RETRY_LATER, Event.THROTTLED, Event.MAINTENANCE, Event.USER_NEEDED):
        table[State.REFRESHING, failure] = _FAILURES[failure]
    for state in TIMED_STATES:
        table[state, Event.DUE] = State.WAITING
    for state in _WANTED:
        table[state, Event.STOP] = State.STOPPED
        table[state, Event.FENCE] = State.FENCED
        table[state, Event.DRAIN] = State.DRAINING
        table[state, Event.SUSPEND] = State.SUSPENDED
    return table


TRANSITIONS: Mapping[tuple[State, Event], State] = _table()

# What a reader is told (DESIGN §5); None: nothing is written.
STATUS_OF: Mapping[State, RecordStatus | None] = {
    State.WAITING: RecordStatus.STARTING,
    State.CONNECTING: RecordStatus.CONNECTING,
    State.AUTHORIZING: RecordStatus.CONNECTING,
    State.SYNCING: RecordStatus.SYNCING,
    State.LIVE: RecordStatus.LIVE,
    State.BACKOFF: RecordStatus.STALE,
    State.THROTTLED: RecordStatus.STALE,
    State.REFRESHING: RecordStatus.STALE,
    State.DRAINING: RecordStatus.STALE,
    State.SUSPENDED: RecordStatus.STALE,
    State.MAINTENANCE: RecordStatus.MAINTENANCE,
    State.ACTION_REQUIRED: RecordStatus.ACTION_REQUIRED,
    State.STOPPED: RecordStatus.STOPPED,
    State.FENCED: None,
}


def next_state(state: State, event: Event) -> State:
    """The state that follows. Raises IllegalTransition for a pair that is not in the table."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event.value} cannot happen to a session that is {state.value}") from None


def status_name(state: State) -> str:
    """The record status as listed; "fenced" where nothing is written."""
    status = STATUS_OF[state]
    return state.value if status is None else status.value
