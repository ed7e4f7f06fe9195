"""Whose account? What each credential was heard to be of, and the request budget of each account.

Before an account is used for a user, that user's own credential must have answered for it (DESIGN §5). A budget is the
account's, whoever asks: until a credential is known to be of an account it has one of its own, which becomes the
account's when that has none yet. Bounded; kept over logins, as the broker's own count is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TypeVar

from bridge.brokers.alpaca import credential as credentials
from bridge.brokers.alpaca import faults, normalize
from bridge.brokers.alpaca.budget import Priority
from bridge.brokers.alpaca.context import Context
from bridge.brokers.alpaca.gate import Gate
from bridge.brokers.alpaca.requests import Requests
from bridge.brokers.alpaca.values import word
from bridge.brokers.base import BrokerAccount, BrokerFault, Credential, Environment, FaultKind, Reason, ReasonCode
from core.errors import ProtocolViolation

KEPT = 20_000

T = TypeVar("T")
Whose = tuple[Environment, str]  # with a credential's fingerprint, or an account's id


class Proofs:
    """What the credentials seen here are of."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._accounts: OrderedDict[Whose, BrokerAccount] = OrderedDict()  # by fingerprint
        self._gates: OrderedDict[Whose, Gate] = OrderedDict()  # by account id, or by fingerprint until that is known

    async def prove(self, environment: Environment, credential: Credential) -> BrokerAccount:
        """Ask the broker which account this credential is of there. Raises BrokerFault."""
        credential = shown_at(credential, environment)
        fingerprint = credentials.fingerprint(credential)
        context, gate = self._context, self._gate(environment, fingerprint)
        requests = Requests(context.settings, context.clock, context.stats, context.client, gate, credential)
        try:
            document = await requests.account(Priority.LOGIN)
            account = BrokerAccount(
                normalize.account_id(document), environment, word(document, "account_number"), "Alpaca"
            )
            closed = normalize.closed(document)
        except ProtocolViolation as error:
            context.stats.count("quarantined")
            raise faults.snapshot_refused() from error
        except BrokerFault as fault:
            if fault.kind is FaultKind.FATAL_USER:
                self._accounts.pop((environment, fingerprint), None)
            raise
        if closed:
            raise faults.account_closed()
        _put(self._accounts, (environment, fingerprint), account)
        own = self._gates.pop((environment, fingerprint), None)
        if own is not None and (environment, account.account_id) not in self._gates:
            _put(self._gates, (environment, account.account_id), own)
        return account

    def gate(self, environment: Environment, account_id: str) -> Gate:
        """The request budget of an account."""
        return self._kept_gate((environment, account_id))

    def known(self, credential: Credential) -> tuple[BrokerAccount, ...]:
        """The accounts that this credential has answered for so far. No I/O."""
        fingerprint = credentials.fingerprint(credential)
        found = (self._accounts.get((environment, fingerprint)) for environment in Environment)
        return tuple(account for account in found if account is not None)

    def _gate(self, environment: Environment, fingerprint: str) -> Gate:
        account = self._accounts.get((environment, fingerprint))
        return self._kept_gate((environment, fingerprint if account is None else account.account_id))

    def _kept_gate(self, key: Whose) -> Gate:
        gate = self._gates.get(key)
        if gate is None:
            context = self._context
            gate = Gate(context.settings, context.clock, context.stats)
        _put(self._gates, key, gate)
        return gate


def shown_at(credential: Credential, environment: Environment) -> Credential:
    """The credential as it is shown in an environment: a consent may cover both, a key pair is of one. Raises
    BrokerFault."""
    if credential.environment is environment:
        return credential
    if credentials.is_oauth(credential):
        return replace(credential, environment=environment)
    message = f"These are keys of a {credential.environment} account, but it was asked for as {environment}."
    raise BrokerFault(FaultKind.FATAL_USER, Reason(ReasonCode.WRONG_ENVIRONMENT, message))


def _put(kept: OrderedDict[Whose, T], key: Whose, value: T) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > KEPT:
        kept.popitem(last=False)
