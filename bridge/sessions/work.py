"""The awaits of a session: logging in, refreshing, reconciling, logging out. Each is one short-lived task.

They carry out and report; they change no state and decide nothing. Whatever goes wrong comes back as a `BrokerFault`,
translated here once. Every wait has a deadline. Being cancelled is the supervisor's way to end one, and only that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from bridge.brokers.base import AccountSession, Broker, BrokerFault, Credential, FaultKind, Reason, ReasonCode
from bridge.credentials.grants import CredentialSource
from bridge.sessions import reactions
from bridge.sessions.session import Session
from bridge.telemetry.tracing import TRACER
from core.errors import BridgeError, InvalidInput, Unavailable
from core.user_key import short_key

log = logging.getLogger(__name__)

LOGIN_DEADLINE_S = 90.0  # the adapter has closer ones for each request; this one catches what it forgot
REFRESH_DEADLINE_S = 30.0
RECONCILE_DEADLINE_S = 120.0  # lowest class in the adapter's request queue, so it may wait long
LOGOUT_DEADLINE_S = 5.0
PREVIOUS_DEADLINE_S = 6.0  # for a cancelled task to end, or an earlier logout
CREDENTIAL_DEADLINE_S = 10.0
KEEP_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class LoginOutcome:
    """How a login ended: `fault` None is success. `asked`: the broker was shown the credential."""

    fault: BrokerFault | None
    asked: bool


async def log_in(
    session: Session,
    broker: Broker,
    credentials: CredentialSource,
    *,
    verdict: Callable[[Credential], BrokerFault | None],
    resolved: Callable[[Session, str], Awaitable[None]],
) -> LoginOutcome:
    """Make a session live.

    `verdict` answers for credentials whose refusal is known; `resolved` takes the account of an unnamed session.
    """
    asked = False
    try:
        async with asyncio.timeout(LOGIN_DEADLINE_S):
            credential = await _credential(session, credentials)
            session.credential = credential
            known = verdict(credential)
            if known is not None:
                return LoginOutcome(known, asked=False)
            if session.account is None:
                session.account = broker.session(session.environment, session.account_id, session)
            account = session.account
            asked = True
            with TRACER.span("login", broker=session.broker, environment=session.environment.value):
                await account.login(credential, at_risk=session.at_risk)
            await _keep_covered(session, broker, credentials, credential)
            if session.account_id is None:
                await _resolve(session, account, resolved)
            return LoginOutcome(None, asked=True)
    except BrokerFault as fault:
        return LoginOutcome(fault, asked)
    except TimeoutError:
        return LoginOutcome(reactions.too_slow("The login", LOGIN_DEADLINE_S), asked)
    except Exception as error:  # noqa: BLE001  last resort: one session's mishap must not reach the others
        return LoginOutcome(_internal(session, "login", error), asked)


async def _keep_covered(
    session: Session, broker: Broker, credentials: CredentialSource, credential: Credential
) -> None:
    """What the broker was asked about this grant is kept with it, so that no later process has to ask again.

    Where it cannot be kept now, the login is good all the same.
    """
    covered = broker.known_accounts(credential)
    if not covered or covered == credential.accounts:
        return
    try:
        async with asyncio.timeout(KEEP_DEADLINE_S):
            await credentials.keep_accounts(session.user_id, session.broker, credential, covered)
    except (BridgeError, TimeoutError) as error:
        log.info("what a grant covers was not kept", extra={**_who(session), "error": type(error).__name__})


async def _resolve(
    session: Session, account: AccountSession, resolved: Callable[[Session, str], Awaitable[None]]
) -> None:
    """Say which account it is. When that is refused, the login is undone."""
    try:
        if account.account_id is None:
            reason = Reason(ReasonCode.NO_ACCOUNTS, "The broker did not say which account this is; name the account.")
            raise BrokerFault(FaultKind.FATAL_USER, reason)
        await resolved(session, account.account_id)
    except BaseException:
        await log_out(session, session.drop_account(), None)
        raise


async def _credential(session: Session, credentials: CredentialSource) -> Credential:
    try:
        async with asyncio.timeout(CREDENTIAL_DEADLINE_S):
            credential = await credentials.get(session.user_id, session.broker)
    except InvalidInput as error:
        raise reactions.credentials_invalid(error.field) from error
    except Unavailable as error:
        raise reactions.credentials_unavailable(error.retry_after_s) from error
    except TimeoutError as error:
        raise reactions.credentials_unavailable(None) from error
    if credential is None:
        raise reactions.no_credentials()
    return credential


async def refresh(session: Session, broker: Broker, credentials: CredentialSource) -> Credential | BrokerFault:
    """Get a credential newer than the session's. Giving up the wait does not end a refresh under way."""
    stale = session.credential
    if stale is None:
        return _internal(session, "refresh", RuntimeError("nothing to refresh"))
    try:
        async with asyncio.timeout(REFRESH_DEADLINE_S):
            return await credentials.refresh(session.user_id, session.broker, stale, broker.refresh)
    except BrokerFault as fault:
        return fault
    except InvalidInput as error:
        return reactions.credentials_invalid(error.field)
    except Unavailable as error:
        return reactions.credentials_unavailable(error.retry_after_s)
    except TimeoutError:
        return reactions.too_slow("Renewing the access", REFRESH_DEADLINE_S)
    except Exception as error:  # noqa: BLE001  last resort: one grant's mishap must not reach the others
        return _internal(session, "refresh", error)


async def reconcile(session: Session, account: AccountSession) -> int | BrokerFault:
    """Compare with the broker's full snapshot; the number of events that had been lost."""
    try:
        async with asyncio.timeout(RECONCILE_DEADLINE_S):
            return await account.reconcile()
    except BrokerFault as fault:
        return fault
    except TimeoutError:
        return reactions.too_slow("The reconcile", RECONCILE_DEADLINE_S)
    except Exception as error:  # noqa: BLE001  last resort: the session stays live and tries again at its next turn
        return _internal(session, "reconcile", error)


async def log_out(session: Session, account: AccountSession | None, previous: asyncio.Task[Any] | None) -> None:
    """End the broker's side, after the session's previous task has ended."""
    if previous is not None and not previous.done():
        await asyncio.wait({previous}, timeout=PREVIOUS_DEADLINE_S)
    if account is None:
        return
    try:
        async with asyncio.timeout(LOGOUT_DEADLINE_S):
            await account.logout()
    except TimeoutError:
        log.warning("the broker did not confirm a logout in time", extra=_who(session))
    except Exception as error:  # noqa: BLE001  last resort: the session is over all the same
        _internal(session, "logout", error)


def _internal(session: Session, what: str, error: Exception) -> BrokerFault:
    log.error("unexpected error in a %s", what, extra=_who(session), exc_info=error)
    fault = reactions.internal_error()
    fault.__cause__ = error
    return fault


def _who(session: Session) -> dict[str, str]:
    return {"user": short_key(session.user_keys.canonical), "broker": session.broker}
