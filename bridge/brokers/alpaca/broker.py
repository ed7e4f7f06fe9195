"""The Alpaca adapter behind `bridge.brokers.base.Broker`: accounts, sessions, credentials, consent, health.

It owns the hubs of accounts. Sessions of one account share a hub; nobody is given an account that the own credential
has not answered for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from bridge.brokers.alpaca import credential as credentials
from bridge.brokers.alpaca import faults, login, oauth
from bridge.brokers.alpaca.context import make_context
from bridge.brokers.alpaca.health import channel_health
from bridge.brokers.alpaca.hub import AccountHub
from bridge.brokers.alpaca.members import Login, Member
from bridge.brokers.alpaca.proofs import Proofs
from bridge.brokers.alpaca.session import AlpacaSession
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import (
    BrokerAccount,
    BrokerFault,
    Capabilities,
    ChannelHealth,
    ConsentScope,
    Credential,
    Environment,
    FaultKind,
    IssuedTokens,
    Reason,
    ReasonCode,
    SessionListener,
)
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks
from core.secret import Secret


class AlpacaBroker:
    """Implements `Broker`. Build one per process; call `close` at the end, which ends `tasks` too."""

    name = "alpaca"

    def __init__(self, settings: AlpacaSettings, clock: Clock, rng: random.Random, tasks: Tasks | None = None) -> None:
        self.capabilities = Capabilities(refresh=False, consent=settings.consents)
        self._settings = settings
        self._clock = clock
        self._tasks = tasks = tasks or Tasks(self.name)
        self._stats = Stats()
        self._context = make_context(settings, clock, rng, tasks, self._stats)
        self._proofs = Proofs(self._context)
        self._hubs: dict[tuple[Environment, str], AccountHub] = {}

    # ------------------------------------------------------------ Broker

    def read_credential(self, grant_id: str, entry: Mapping[str, object]) -> Credential:
        """See `credential.read`."""
        return credentials.read(grant_id, entry)

    def settings_entry(self, value: Mapping[str, object]) -> Mapping[str, object]:
        """See `credential.entry_of_settings`."""
        return credentials.entry_of_settings(value)

    def login_slots(self, environment: Environment) -> int:
        """Budgets are per account: only hosts and our own core set a limit."""
        return self._settings.login_slots

    def reconcile_interval_s(self, environment: Environment) -> float:
        """The same for all: each account has a budget of its own."""
        return self._settings.reconcile_s

    def session(self, environment: Environment, account_id: str | None, listener: SessionListener) -> AlpacaSession:
        """A new account session; no I/O."""
        return AlpacaSession(self, environment, account_id, listener)

    async def accounts(self, credential: Credential) -> list[BrokerAccount]:
        """What the credential covers: one account, or one in each environment with a consent (alpaca.md §1.5). Always
        asks the broker. Raises BrokerFault."""
        environments = [credential.environment]
        if credentials.is_oauth(credential):
            environments += [each for each in Environment if each is not credential.environment]
        found: list[BrokerAccount] = []
        refused: list[BrokerFault] = []
        for environment in environments:
            try:
                found.append(await self._proofs.prove(environment, credential))
            except BrokerFault as fault:
                refused.append(fault)
        if not found:
            raise refused[0]
        return found

    def known_accounts(self, credential: Credential) -> tuple[BrokerAccount, ...]:
        """See `Broker.known_accounts`."""
        return self._proofs.known(credential)

    async def refresh(self, credential: Credential) -> IssuedTokens:
        """Neither keys nor tokens can be renewed here (alpaca.md §1.5): always FATAL_USER."""
        reason = Reason(ReasonCode.TOKEN_EXPIRED, "This access cannot be renewed; connect the broker again.")
        raise BrokerFault(FaultKind.FATAL_USER, reason)

    def consent_url(self, *, state: str, redirect_uri: str, scope: ConsentScope) -> str:
        """See `oauth.consent_url`."""
        return oauth.consent_url(self._settings, state=state, redirect_uri=redirect_uri, scope=scope)

    async def exchange_code(self, code: Secret, *, redirect_uri: str) -> IssuedTokens:
        """Spend a consent code. Raises BrokerFault: FATAL_USER when the broker refuses the code."""
        try:
            issued = await oauth.exchange_code(self._settings, self._clock, code, redirect_uri)
        except BrokerFault:
            self._stats.count("exchanges_failed")
            raise
        self._stats.count("exchanges")
        return issued

    def health(self) -> ChannelHealth:
        """The trading streams of all accounts: the state that most of them are in."""
        return channel_health(list(self._hubs.values()), self._clock)

    def metrics(self) -> Mapping[str, float]:
        """Counters: `requests.<outcome>`, `refusals.<code>`, `reconnects.<cause>` (`feed_<cause>`: of price sockets),
        `dials`, `dials_failed.<cause>`, `frames`, `bytes`, `events.<type>` (`trade`: prices), `fills`,
        `fills_recovered`, `lost_events`, `quarantined`, `foreign_events`, `strange_executions`, `garbage_frames`,
        `unknown_messages`, `empty_updates`, `stream_errors`, `readings.<verdict>`, `readings`, `reconciles`,
        `reads_failed`, `polls`, `polls_failed`, `poll_disagreements`, `orders_left_out`, `feed_errors.<code>`,
        `pings`, `exchanges` ...; the request round trip as `roundtrip.le_<s>` (cumulative), `roundtrip.sum`,
        `roundtrip.count`; gauges `accounts`, `channels`, `price_feeds`, `executions_unconfirmed`.
        """
        values = self._stats.read()
        hubs = self._hubs.values()
        traffic = self._context.dialer.traffic
        values.update({"frames": traffic.frames, "bytes": traffic.size})
        values["events.trade"] = self._context.market.trades
        values["accounts"] = len(hubs)
        values["channels"] = sum(hub.stream is not None and hub.stream.up for hub in hubs)
        values["price_feeds"] = self._context.market.sockets
        values["executions_unconfirmed"] = sum(hub.memory.unconfirmed for hub in hubs)
        return values

    async def close(self) -> None:
        """Close all channels. Sessions are not told."""
        hubs = list(self._hubs.values())
        self._hubs.clear()
        for hub in hubs:
            hub.members.clear()
        await asyncio.gather(self._context.market.close(), *(hub.log_out() for hub in hubs))
        await self._tasks.close()
        await self._context.client.close()

    # ------------------------------------------------------------ for sessions

    async def cover(self, environment: Environment, account_id: str | None, credential: Credential) -> BrokerAccount:
        """The account to serve, proven by the caller's own credential. Raises BrokerFault."""
        if account_id is not None and (hub := self._hubs.get((environment, account_id))) is not None:
            blocked = hub.pace.blocked(self._clock.monotonic())
            if blocked is not None:
                raise blocked  # nothing is asked for a login that cannot succeed yet
        try:
            account = await self._proofs.prove(environment, credential)
        except BrokerFault as fault:
            if fault.kind is FaultKind.FATAL_USER and credentials.is_oauth(credential):
                await self._refuse_here(environment, credential)
            raise
        if account_id is not None and account.account_id != account_id:
            if credentials.is_oauth(credential):
                await self._refuse_elsewhere(environment, account_id, credential)
            raise faults.foreign_account()
        return account

    async def _refuse_here(self, environment: Environment, credential: Credential) -> None:
        """Raises BrokerFault when a consent that is not accepted in one environment is good in another: it was not
        revoked, it does not cover this one."""
        for other in Environment:
            if other is environment:
                continue
            try:
                await self._proofs.prove(other, credential)
            except BrokerFault:  # the first refusal stands
                continue
            message = f"Your consent covers no {environment} account."
            raise BrokerFault(FaultKind.FATAL_USER, Reason(ReasonCode.NO_ACCOUNTS, message))

    async def _refuse_elsewhere(self, environment: Environment, account_id: str, credential: Credential) -> None:
        """Raises BrokerFault when the consent covers the account, but in another environment."""
        for account in await self.accounts(credential):
            if account.account_id == account_id and account.environment is not environment:
                message = f"This is a {account.environment} account, but it was asked for as {environment}."
                raise BrokerFault(FaultKind.FATAL_USER, Reason(ReasonCode.WRONG_ENVIRONMENT, message))

    async def attach(self, account: BrokerAccount, member: Member, login_of: Login) -> AccountHub:
        """The hub of an account, with one more member."""
        key = (account.environment, account.account_id)
        while (hub := self._hubs.get(key)) is not None and hub.leaving is not None:
            await asyncio.shield(hub.leaving)
        if hub is None:
            gate = self._proofs.gate(*key)
            hub = self._hubs[key] = AccountHub(
                self._context, account.environment, account.account_id, gate, login_of, login
            )
        if member not in hub.members:
            hub.members.append(member)
        return hub

    async def detach(self, hub: AccountHub, member: Member) -> None:
        """A member leaves; with the last one the account is left."""
        if member in hub.members:
            hub.members.remove(member)
            hub.left(member)
        if hub.members or hub.leaving is not None:
            return
        try:
            await hub.log_out()
        finally:
            key = (hub.environment, hub.account_id)
            if self._hubs.get(key) is hub:
                del self._hubs[key]
