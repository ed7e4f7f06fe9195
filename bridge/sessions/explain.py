"""Views of sessions, and why a session is as it is, in sentences. Reads rows; changes nothing."""

from __future__ import annotations

from bridge.brokers.base import ReasonCode
from bridge.sessions.machine import Machine
from bridge.sessions.session import Session
from bridge.sessions.states import LOGIN_STATES, TIMED_STATES, State, status_name
from bridge.sessions.views import Explanation, FillView, SessionView
from core.money import json_number

_AWAITS = {
    State.WAITING: "admission",
    **dict.fromkeys(LOGIN_STATES, "login"),
    **dict.fromkeys(TIMED_STATES, "timer"),
    State.REFRESHING: "refresh",
    State.ACTION_REQUIRED: "user",
    State.SUSPENDED: "lease",
    State.FENCED: "lease",
}
_NEXT = {
    State.CONNECTING: "It connects to the broker now.",
    State.AUTHORIZING: "It logs in at the broker now.",
    State.SYNCING: "It reads the account from the broker now.",
    State.LIVE: "It follows the account and compares it with the broker from time to time.",
    State.BACKOFF: "It tries again by itself.",
    State.THROTTLED: "It tries again by itself when the broker's rate limit allows.",
    State.MAINTENANCE: "It tries again by itself when the broker's maintenance should be over.",
    State.REFRESHING: "It logs in again as soon as the access has been renewed.",
    State.ACTION_REQUIRED: "Nothing until the user has acted and the session is started again.",
    State.DRAINING: "Another process, or this one after its restart, takes over.",
    State.STOPPED: "Nothing until it is started again.",
    State.FENCED: "Whoever owns it by the database serves it; if that is this process, it takes it back after a while.",
    State.SUSPENDED: "It logs in again when this process reaches its database, or another process takes it over.",
}
_START_AGAIN = "Then start the session again."
_UNBLOCK = {
    ReasonCode.TOKEN_EXPIRED: "Connect the broker again, so that new credentials are stored. " + _START_AGAIN,
    ReasonCode.TOKEN_REVOKED: "Connect the broker again: the consent was withdrawn or has run out. " + _START_AGAIN,
    ReasonCode.NO_CREDENTIALS: "Connect the broker. " + _START_AGAIN,
    ReasonCode.CREDENTIALS_INVALID: "Correct the stored credentials. " + _START_AGAIN,
    ReasonCode.ACCOUNT_NOT_COVERED: "Include this account in the consent, or start an account that it covers.",
    ReasonCode.WRONG_ENVIRONMENT: "Start the session in the environment in which this account lives.",
    ReasonCode.CHOOSE_ACCOUNT: "Start the session with one of the accounts named.",
    ReasonCode.NO_ACCOUNTS: "Include an account of this environment in the consent. " + _START_AGAIN,
    ReasonCode.ACCOUNT_DISABLED: "Ask the broker to enable the account. " + _START_AGAIN,
    ReasonCode.APPLICATION_REFUSED: "The operator must correct the application's id and secret, or ask the broker.",
    ReasonCode.CREDENTIALS_UNAVAILABLE: "The operator must bring back the place where credentials are kept.",
}


def view_of(session: Session, owner: str) -> SessionView:
    """The session as listed, now."""
    entry = session.entry
    now = session.desk.clock.monotonic()
    return SessionView(
        serial=session.serial,
        user_key=session.user_keys.canonical,
        broker=session.broker,
        environment=session.environment.value,
        account_id=session.account_id,
        status=status_name(session.state),
        state=session.state.value,
        reason=session.reason,
        since=session.since_ms,
        next_attempt_at=session.next_attempt_at_ms,
        attempts=0 if session.is_steady(now) else session.attempts,
        reconnects=session.reconnects,
        events=session.events,
        last_event_at=session.last_event_at_ms,
        last_flush_at=None if entry is None else entry.last_flush_at_ms,
        uptime_percent=session.uptime_percent(now),
        owner=owner,
        fence=None if entry is None else entry.fence,
        version=0 if entry is None else entry.version,
        cache_key=session.keys[0] if session.keys else None,
    )


def explain(session: Session, machine: Machine, owner: str) -> Explanation:
    """Cause chain, what happens next and when, and what would unblock it."""
    position = machine.logins.position(session.lane, session)
    length = machine.logins.waiting(session.lane)
    if session.state is not State.WAITING:
        what_next = _NEXT[session.state]
    elif position is None:
        what_next = "It queues for its login as soon as its last attempt has ended."
    else:
        what_next = f"It logs in when its turn comes: place {position} of {length}, accounts at risk first."
    return Explanation(
        session=view_of(session, owner),
        chain=session.evidence,
        awaits=_AWAITS.get(session.state, "nothing"),
        what_next=what_next,
        unblock=_unblock(session),
        next_attempt_at=session.next_attempt_at_ms,
        queue_position=position,
        queue_length=length,
        fills=fills_of(session),
    )


def fills_of(session: Session) -> tuple[FillView, ...]:
    """The last executions that the mirror remembers, newest first."""
    mirror = session.mirror
    if mirror is None:
        return ()
    instruments = mirror.catalogue.instruments
    return tuple(
        FillView(
            at=fill.at_ms,
            execution_id=fill.execution_id,
            order_id=fill.order_id,
            symbol=instruments[fill.instrument_id].name if fill.instrument_id in instruments else None,
            side=fill.side.value,
            units=json_number(fill.units),
            price=json_number(fill.price),
            recovered=fill.recovered,
        )
        for fill in reversed(mirror.fills)
    )


def explain_stored(wanted: bool, view: SessionView, *, served_by: str | None, shared: bool) -> Explanation:
    """The same for a session that this process knows from the store only. `shared`: others may serve it."""
    if not wanted:
        what_next = _NEXT[State.STOPPED]
    elif served_by is not None:
        what_next = f"Process {served_by} serves it; here is known what its record says."
    elif shared:
        what_next = "No process serves it at the moment; one takes it over within seconds."
    else:
        what_next = "It is brought back with the others after the restart."
    unblock = _UNBLOCK.get(view.reason.code) if wanted and view.reason is not None else None
    return Explanation(
        session=view,
        chain=(),
        awaits="nothing" if not wanted else "admission" if served_by is None else "owner",
        what_next=what_next,
        unblock=unblock,
        next_attempt_at=None,
        queue_position=None,
        queue_length=0,
    )


def _unblock(session: Session) -> str | None:
    if session.state is State.LIVE or session.reason is None:
        return None
    advice = _UNBLOCK.get(session.reason.code)
    if advice is None and session.state is State.ACTION_REQUIRED:
        return "See the reason. " + _START_AGAIN
    return advice
