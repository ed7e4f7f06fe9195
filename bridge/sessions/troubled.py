"""Grants in trouble: which secrets were refused, who waits for new ones, and how often a login may still be tried.

Pure bookkeeping; the supervisor runs the refreshes. A grant has a row here only from its first refusal until a login
with it succeeds. Invariants: secrets known to be refused are not shown to the broker again, except for a user's own
retry within the grant's small budget; one refresh per grant at a time, however many sessions wait for it.
"""

from __future__ import annotations

from bridge.brokers.base import BrokerFault, Credential, FaultKind, ReasonCode
from bridge.sessions.backoff import AuthBudget
from bridge.sessions.session import Session

_ACCESS_REFUSED = frozenset({ReasonCode.TOKEN_EXPIRED, ReasonCode.TOKEN_REVOKED})


class TroubledGrant:
    """One grant in trouble. `fault`: the refusal; `waiting`: sessions that are refreshing; `asked`: a refresh is on."""

    __slots__ = ("asked", "budget", "fault", "refused", "waiting")

    def __init__(self, refused: Credential, fault: BrokerFault) -> None:
        self.refused = refused
        self.fault = fault
        self.budget = AuthBudget()
        self.asked = False
        self.waiting: dict[Session, None] = {}


def same_secrets(one: Credential | None, other: Credential | None) -> bool:
    """True when both would show the broker the same thing."""
    return one is other or (one is not None and other is not None and one.secrets == other.secrets)


def is_access_refusal(fault: BrokerFault) -> bool:
    """True for a refusal of the credential itself, as opposed to one of the account or the moment."""
    return fault.kind is FaultKind.TOKEN or (
        fault.kind is FaultKind.FATAL_USER and fault.reason.code in _ACCESS_REFUSED
    )


class TroubledGrants:
    """All grants in trouble, by grant id."""

    def __init__(self) -> None:
        self._grants: dict[str, TroubledGrant] = {}

    def __len__(self) -> int:
        return len(self._grants)

    def get(self, grant_id: str) -> TroubledGrant | None:
        """The grant, when it is in trouble."""
        return self._grants.get(grant_id)

    def refused(self, credential: Credential, fault: BrokerFault, now: float, *, at_login: bool) -> TroubledGrant:
        """Take down a refusal. Several sessions refused over the same secrets count once; a final one each time."""
        grant = self._grants.get(credential.grant_id)
        known = grant is not None and same_secrets(grant.refused, credential)
        if grant is None:
            grant = self._grants[credential.grant_id] = TroubledGrant(credential, fault)
        if at_login and (not known or fault.kind is FaultKind.FATAL_USER):
            grant.budget.refused(now)
        grant.refused, grant.fault = credential, fault
        return grant

    def verdict(self, credential: Credential, now: float) -> BrokerFault | None:
        """The answer that is known without asking the broker; None: ask it.

        Refused secrets are refreshed, not shown again. A final refusal is repeated while the budget is spent.
        """
        grant = self._grants.get(credential.grant_id)
        if grant is None or not same_secrets(grant.refused, credential):
            return None
        if grant.fault.kind is FaultKind.FATAL_USER and grant.budget.wait_s(now) <= 0.0:
            return None
        return grant.fault

    def accepted(self, credential: Credential) -> None:
        """A login succeeded: the grant is well, unless a refresh of it is still on."""
        grant = self._grants.get(credential.grant_id)
        if grant is not None and not grant.waiting and not grant.asked:
            del self._grants[credential.grant_id]

    def leave(self, session: Session) -> None:
        """The session waits no more."""
        credential = session.credential
        grant = None if credential is None else self._grants.get(credential.grant_id)
        if grant is not None:
            grant.waiting.pop(session, None)
