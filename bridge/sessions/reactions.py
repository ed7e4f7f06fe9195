"""What a session does about a fault: fault and history in, event and delay out. Pure.

Everything a session says about itself is here too: the reasons of our own making and the faults that are ours rather
than a broker's. Every fault kind has an answer, and no answer is a loop: what is repeated at once is counted, and
backs off when it is repeated too often.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode, Stage
from bridge.sessions import backoff
from bridge.sessions.states import Event

STARTING = Reason(ReasonCode.STARTING, "Accepted; waiting for its turn to log in.")
STAGES = {
    Stage.CONNECTING: Reason(ReasonCode.CONNECTING, "Connecting to the broker."),
    Stage.AUTHORIZING: Reason(ReasonCode.AUTHORIZING, "Logging in at the broker."),
    Stage.SYNCING: Reason(ReasonCode.SYNCING, "Reading the account from the broker."),
}
REFRESHING = Reason(ReasonCode.TOKEN_REFRESHING, "The access to the broker is being renewed.")
RENEWED = Reason(ReasonCode.ACCOUNT_SESSION_ENDED, "The access to the broker was renewed; logging in again.")
DRAINING = Reason(ReasonCode.DRAINING, "The bridge is shutting down; the last known numbers are shown.")
STOPPED = Reason(ReasonCode.STOPPED, "Stopped on request.")
IDLE = Reason(ReasonCode.IDLE, "Ended because nobody had used it for long; it can be started again.")
ENDS = {ReasonCode.STOPPED: STOPPED, ReasonCode.IDLE: IDLE}
FENCED = Reason(ReasonCode.FENCED, "Another process serves this session now.")
HANDED_OVER = Reason(ReasonCode.DRAINING, "Another process of the bridge takes over; the last known numbers are shown.")
SUSPENDED = Reason(
    ReasonCode.FENCED,
    "The bridge cannot reach its database and may not act meanwhile; the last known numbers are shown.",
)
UNSERVED = Reason(ReasonCode.STARTING, "Waiting for a process of the bridge to take it over.")


@dataclass(frozen=True, slots=True)
class Reaction:
    """`event` to raise, and for the timed states the seconds until the next attempt. `counts`: one more failure."""

    event: Event
    delay_s: float | None = None
    counts: bool = True


def react(fault: BrokerFault, *, attempt: int, quick: int, rng: Random, was_live: bool = False) -> Reaction:
    """Decide. `attempt`: failures since last steady; `quick`: how often it was sent to authorise again at once.

    A token refused at login is renewed however often that happened: the grant's own budget limits it. One that ends
    live sessions again and again backs off first.
    """
    wait, shared = fault.retry_after_s, fault.shared
    event, counts, delay = Event.RETRY_LATER, True, None
    match fault.kind:
        case FaultKind.TRANSIENT:
            delay = backoff.retry_delay(attempt, rng, retry_after_s=wait, shared=shared)
        case FaultKind.THROTTLE:
            event, delay = Event.THROTTLED, backoff.throttle_delay(attempt, rng, retry_after_s=wait, shared=shared)
        case FaultKind.MAINTENANCE:
            event, delay, counts = Event.MAINTENANCE, backoff.maintenance_delay(wait), False
        case FaultKind.ACCOUNT_AUTH_LOST | FaultKind.CLIENT_AUTH_LOST:
            if quick < backoff.QUICK_REAUTHORISATIONS and not wait:
                return Reaction(Event.AUTH_LOST, counts=False)
            delay = backoff.retry_delay(attempt, rng, retry_after_s=wait, shared=shared)
        case FaultKind.TOKEN:
            if quick < backoff.QUICK_REAUTHORISATIONS or not was_live:
                return Reaction(Event.TOKEN_REFUSED, counts=False)
            delay = backoff.retry_delay(attempt, rng, retry_after_s=wait, shared=shared)
        case FaultKind.FATAL_USER:
            event = Event.USER_NEEDED
        case FaultKind.FATAL_APP:
            delay = backoff.application_delay(attempt, rng, retry_after_s=wait)
    return Reaction(event, delay, counts)


def final(fault: BrokerFault) -> BrokerFault:
    """The same refusal, where nothing can be refreshed: only the user can help."""
    answer = BrokerFault(FaultKind.FATAL_USER, fault.reason, broker_code=fault.broker_code)
    answer.__cause__ = fault.__cause__
    return answer


def internal_error() -> BrokerFault:
    """Our own mistake: this session alone starts over, with backoff."""
    message = "Something went wrong inside the bridge; it tries again by itself."
    return BrokerFault(FaultKind.TRANSIENT, Reason(ReasonCode.INTERNAL_ERROR, message))


def too_slow(what: str, seconds: float) -> BrokerFault:
    """A deadline passed."""
    message = f"{what} took longer than {seconds:g} s."
    return BrokerFault(FaultKind.TRANSIENT, Reason(ReasonCode.BROKER_ERROR, message))


def no_credentials() -> BrokerFault:
    """What was stored at the start is gone."""
    message = "No credentials are stored for this broker any more; connect the broker again."
    return BrokerFault(FaultKind.FATAL_USER, Reason(ReasonCode.NO_CREDENTIALS, message))


def credentials_invalid(field: str | None) -> BrokerFault:
    """The stored entry has become unusable. Only the field is named: its path may hold the user id."""
    where = f" ({field.rpartition('.')[2]})" if field else ""
    message = f"The stored credentials cannot be used{where}; enter them again."
    return BrokerFault(FaultKind.FATAL_USER, Reason(ReasonCode.CREDENTIALS_INVALID, message))


def credentials_unavailable(retry_after_s: float | None) -> BrokerFault:
    """The place where credentials are kept does not answer."""
    reason = Reason(ReasonCode.CREDENTIALS_UNAVAILABLE, "The stored credentials cannot be read at present.")
    return BrokerFault(FaultKind.TRANSIENT, reason, retry_after_s=retry_after_s)


def already_served(account_id: str) -> BrokerFault:
    """An unnamed session turned out to be an account that has its own session."""
    message = f"Account {account_id} already has a session; name the account that is meant."
    return BrokerFault(FaultKind.FATAL_USER, Reason(ReasonCode.CHOOSE_ACCOUNT, message))


def not_stored() -> BrokerFault:
    """What a login found out must be stored before it counts, and the database does not answer."""
    reason = Reason(ReasonCode.INTERNAL_ERROR, "The bridge's database does not answer; it tries again by itself.")
    return BrokerFault(FaultKind.TRANSIENT, reason)
