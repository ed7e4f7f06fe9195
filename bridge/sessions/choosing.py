"""Which account a start means, and in which environment it lives (DESIGN §7, §11). Stores nothing, starts nothing.

Rule kept here: nothing is ever assumed to be a live account; only the caller, the broker or what is stored says so.
"""

from __future__ import annotations

import asyncio
import logging

from bridge.brokers.base import Broker, BrokerAccount, BrokerFault, Credential, Environment
from bridge.sessions.desired import Known
from bridge.sessions.session import Session
from bridge.sessions.states import RESTARTABLE, State
from bridge.sessions.views import AccountChoice
from core.errors import InvalidInput

log = logging.getLogger(__name__)

ACCOUNTS_DEADLINE_S = 5.0


async def unnamed_account(
    adapter: Broker, credential: Credential, environment: Environment, known: Known, unnamed: Session | None
) -> str | None:
    """The account meant by a start that names none: the default, the credential's own, or the only one covered.

    `unnamed`: the user's session at this broker whose account is not known. None when the broker was not heard in time
    or refuses: the login will tell. Raises AccountChoice.
    """
    if known.default is not None and known.default.environment is environment:
        return known.default.account_id
    if credential.account_id is not None and credential.environment is environment:
        return credential.account_id
    if unnamed is not None and unnamed.environment is environment and unnamed.state not in RESTARTABLE:
        return None
    covered = await _covered_accounts(adapter, credential)
    if covered is None and not credential.accounts:
        here = [row.account_id for row in known.sessions if row.environment is environment]
        return here[0] if len(here) == 1 else None
    accounts = [account for account in covered or credential.accounts if account.environment is environment]
    if len(accounts) > 1:
        raise AccountChoice("the credentials cover several accounts; name one of them", accounts)
    return accounts[0].account_id if accounts else None


def environment_of(
    account_id: str, asked: Environment | None, credential: Credential, known: Known, session: Session | None
) -> Environment:
    """Where a named account lives, as far as anybody has said: the caller, its session, the broker, an earlier start.

    Raises InvalidInput when asked for where it is proven not to be.
    """
    if session is not None and session.state is State.LIVE:
        if asked in (None, session.environment):
            return session.environment
        where = session.environment.value
        raise InvalidInput(f"account {account_id} is a {where} account and is being served", field="environment")
    if asked is not None:
        return asked
    covered = {account.environment for account in credential.accounts if account.account_id == account_id}
    if len(covered) == 1:
        return covered.pop()
    if session is not None:
        return session.environment
    stored = known.of_account(account_id)
    return stored.environment if stored is not None else credential.environment


async def _covered_accounts(adapter: Broker, credential: Credential) -> list[BrokerAccount] | None:
    """What the broker says the credential covers; None when it refuses or is not heard: the login finds out why."""
    try:
        async with asyncio.timeout(ACCOUNTS_DEADLINE_S):
            return await adapter.accounts(credential)
    except TimeoutError:
        log.info("the broker did not list accounts in time", extra={"broker": adapter.name})
    except BrokerFault as fault:
        log.info("the broker listed no accounts", extra={"broker": adapter.name, "code": fault.reason.code.value})
    return None
