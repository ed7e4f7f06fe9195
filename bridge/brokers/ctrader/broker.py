"""The cTrader adapter behind `bridge.brokers.base.Broker`: accounts, sessions, credentials, refresh, health.

It owns the pools of channels and the hubs of accounts. Sessions of one account share a hub; nobody is given an account
that the own token does not list.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

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
    ReasonCode,
    SessionListener,
    Stage,
)
from bridge.brokers.ctrader import credential as credentials
from bridge.brokers.ctrader import faults, login, oauth
from bridge.brokers.ctrader.channel import Channel
from bridge.brokers.ctrader.context import Context
from bridge.brokers.ctrader.hub import AccountHub
from bridge.brokers.ctrader.listing import Listed, Listing, choose, kept, read_listing
from bridge.brokers.ctrader.members import LoginRequest, Member
from bridge.brokers.ctrader.pool import Pool, channel_health
from bridge.brokers.ctrader.scheduling import Priority
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks
from bridge.telemetry.redaction import REDACTOR
from core.account import AccountMirror
from core.secret import Secret
from protos.ctrader import messages_pb2


class CtraderBroker:
    """Implements `Broker`. Build one per process and application; call `close` at the end, which ends `tasks` too."""

    name = "ctrader"
    capabilities = Capabilities(refresh=True, consent=True)

    def __init__(self, settings: CtraderSettings, clock: Clock, rng: random.Random, tasks: Tasks | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._tasks = tasks = tasks or Tasks(self.name)
        self._stats = Stats()
        self._context = Context(settings, clock, tasks, self._stats)
        self._pools = {
            environment: Pool(environment, settings, clock, rng, tasks, self._stats) for environment in Environment
        }
        self._hubs: dict[Environment, dict[int, AccountHub]] = {environment: {} for environment in Environment}

    # ------------------------------------------------------------ Broker

    def read_credential(self, grant_id: str, entry: Mapping[str, object]) -> Credential:
        """See `credential.read`."""
        return credentials.read(grant_id, entry)

    def settings_entry(self, value: Mapping[str, object]) -> Mapping[str, object]:
        """See `credential.entry_of_settings`."""
        return credentials.entry_of_settings(value)

    def login_slots(self, environment: Environment) -> int:
        """Logins that keep the request budget of all channels busy without queueing out of order."""
        return self._pools[environment].slots()

    def reconcile_interval_s(self, environment: Environment) -> float:
        """max(60 s, 2N / (0.25 x rate)) over the accounts now held (DESIGN §5)."""
        return self._pools[environment].reconcile_interval_s(len(self._hubs[environment]))

    def session(self, environment: Environment, account_id: str | None, listener: SessionListener) -> CtraderSession:
        """A new account session; no I/O."""
        return CtraderSession(self, environment, account_id, listener)

    async def accounts(self, credential: Credential) -> list[BrokerAccount]:
        """What the token covers, both environments. Always asks the broker. Raises BrokerFault."""
        listing = await self._read_listing(credential.environment, credentials.access_token(credential), Priority.AUTH)
        return [account.account() for account in listing.accounts]

    def known_accounts(self, credential: Credential) -> tuple[BrokerAccount, ...]:
        """See `Broker.known_accounts`."""
        listing = self._context.listings.get(credentials.access_token(credential).fingerprint())
        return () if listing is None else tuple(account.account() for account in listing.accounts)

    async def refresh(self, credential: Credential) -> IssuedTokens:
        """Exchange the refresh token; it is spent by this. Raises BrokerFault.

        In band while a channel of that environment is up (ctrader.md §2.2), else by HTTP (§2.1), which works during an
        outage of the channels too. One call goes one way only: a token that may have been sent is not sent again here.
        """
        old = credential.secrets.get("refreshToken")
        if old is None:
            raise credentials.cannot_refresh()
        channel = self._pools[credential.environment].open_channel()
        way = "http" if channel is None else "in_band"
        try:
            issued = await (oauth.refresh(self._settings, old) if channel is None else self._refresh(channel, old))
        except BrokerFault as fault:
            self._stats.count(f"refreshes_failed.{way}")
            raise faults.refused_refresh(fault) from fault
        self._stats.count(f"refreshes.{way}")
        self._context.token_issued(issued.secrets["accessToken"].fingerprint())
        if (stale := credential.secrets.get("accessToken")) is not None:
            self._context.listings.drop(stale.fingerprint())
        return issued

    def consent_url(self, *, state: str, redirect_uri: str, scope: ConsentScope) -> str:
        """See `oauth.consent_url`."""
        return oauth.consent_url(self._settings, state=state, redirect_uri=redirect_uri, scope=scope)

    async def exchange_code(self, code: Secret, *, redirect_uri: str) -> IssuedTokens:
        """Spend a consent code (ctrader.md §2.1); what it issues ends the user's previous pair. Raises BrokerFault."""
        try:
            issued = await oauth.exchange_code(self._settings, code, redirect_uri)
        except BrokerFault as fault:
            self._stats.count("exchanges_failed")
            raise oauth.refused_code(fault) from fault
        self._stats.count("exchanges")
        self._context.token_issued(issued.secrets["accessToken"].fingerprint())
        return issued

    def health(self) -> ChannelHealth:
        """Channels of both environments."""
        return channel_health(list(self._pools.values()), self._clock)

    def metrics(self) -> Mapping[str, float]:
        """Counters: `requests.<outcome>`, `refusals.<code>`, `reconnects.<cause>`, `dials`, `dials_failed.<cause>`,
        `events.<type>`, `frames`, `bytes`, `unknown_payload_types`, `quarantined`, `foreign_events`, `late_events`,
        `garbage_frames`, `lost_events`, `fills` (executions noted), `fills_recovered` (those of them that no live
        message told of), `deal_searches`, `deal_lists_failed`, `reconciles`, `pnl_checks`, `pnl_drifts`, `probes`,
        `refreshes.<way>`, `refreshes_failed.<way>`, `exchanges` ...; the request round trip as `roundtrip.le_<s>`
        (cumulative), `roundtrip.sum`, `roundtrip.count`; gauges `accounts`, `channels`. Where quotes are shared:
        `quotes_parted`, `quotes_returned` (accounts), and for the channels open now `quotes_subscriptions` (held),
        `quotes_used` (account x symbol), `quotes_classes`, `quotes_apart` (accounts not in the largest class of their
        kind), `quotes_handed_on`.
        """
        values = self._stats.read()
        spots = frames = size = 0
        for pool in self._pools.values():
            pool_frames, pool_spots, pool_bytes = pool.traffic()
            frames, spots, size = frames + pool_frames, spots + pool_spots, size + pool_bytes
            values.update({key: values.get(key, 0) + by for key, by in pool.shared().items()})
        values.update({"events.spot": spots, "frames": frames, "bytes": size})
        values["accounts"] = sum(len(hubs) for hubs in self._hubs.values())
        values["channels"] = sum(len(pool.channels) for pool in self._pools.values())
        return values

    async def close(self) -> None:
        """Close all channels. Sessions are not told."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await self._tasks.close()
        for hubs in self._hubs.values():
            hubs.clear()

    # ------------------------------------------------------------ for sessions

    async def cover(
        self, environment: Environment, account_id: str | None, credential: Credential, member: Member, at_risk: bool
    ) -> Listed:
        """The account to serve, proven by the caller's own token. Raises BrokerFault.

        What is kept with the grant is proof enough while nobody else uses the account here: then the broker checks the
        token at the authorisation, which it does not when the account is logged in already.
        """
        token = credentials.access_token(credential)
        listing = self._context.listings.get(token.fingerprint())
        if listing is None and (found := kept(credential.accounts, environment, account_id)) is not None:
            hub = self._hubs[environment].get(found.number)
            if hub is None or hub.members == [member]:
                return found
        if listing is not None:
            try:
                return choose(listing, environment, account_id)
            except BrokerFault:
                if self._clock.monotonic() - listing.read_at < self._settings.listing_max_age_s:
                    raise
        priority = Priority.AUTH_AT_RISK if at_risk else Priority.AUTH
        listing = await self._read_listing(environment, token, priority)
        return choose(listing, environment, account_id)

    async def attach(self, environment: Environment, listed: Listed, member: Member) -> AccountHub:
        """The hub of an account, with one more member."""
        hubs = self._hubs[environment]
        while (hub := hubs.get(listed.number)) is not None and hub.leaving is not None:
            await asyncio.shield(hub.leaving)
        if hub is None:
            hub = hubs[listed.number] = AccountHub(self._context, self._pools[environment], listed, login)
        if member not in hub.members:
            hub.members.append(member)
        return hub

    async def detach(self, hub: AccountHub, member: Member) -> None:
        """A member leaves; the last one ends the account's authorisation."""
        if member in hub.members:
            hub.members.remove(member)
        if hub.members or hub.leaving is not None:
            return
        try:
            await hub.log_out()
        finally:
            hubs = self._hubs[hub.environment]
            if hubs.get(hub.number) is hub:
                del hubs[hub.number]

    async def _refresh(self, channel: Channel, old: Secret) -> IssuedTokens:
        """In band. Without an answer the outcome is not known."""
        request = messages_pb2.ProtoOARefreshTokenReq(refreshToken=old.reveal())
        reply = messages_pb2.ProtoOARefreshTokenRes
        try:
            answer = await channel.call(request, reply, Priority.AUTH_AT_RISK, self._settings.auth_timeout_s)
        except BrokerFault as fault:
            raise BrokerFault(  # a new one: that of an ended channel is everybody's
                fault.kind,
                fault.reason,
                retry_after_s=fault.retry_after_s,
                broker_code=fault.broker_code,
                in_doubt=faults.maybe_done(fault),
            ) from fault
        issued = {"accessToken": Secret(answer.accessToken), "refreshToken": Secret(answer.refreshToken)}
        REDACTOR.register(*issued.values())
        return IssuedTokens(issued, float(answer.expiresIn) if answer.expiresIn > 0 else None)

    async def _read_listing(self, environment: Environment, token: Secret, priority: Priority) -> Listing:
        channel = self._pools[environment].any()
        await channel.ready()
        now = self._clock.monotonic()
        listing = await read_listing(channel, token, priority, self._settings.auth_timeout_s, now)
        self._context.listings.put(token.fingerprint(), listing)
        return listing


class CtraderSession:
    """Implements `AccountSession`: one user's login to one account, over a hub that others may share."""

    __slots__ = ("_account_id", "_broker", "_environment", "_hub", "_member", "_mirror")

    def __init__(
        self, broker: CtraderBroker, environment: Environment, account_id: str | None, listener: SessionListener
    ) -> None:
        self._broker = broker
        self._environment = environment
        self._account_id = account_id
        self._member = Member(listener)
        self._hub: AccountHub | None = None
        self._mirror: AccountMirror | None = None

    @property
    def mirror(self) -> AccountMirror | None:
        return self._mirror

    @property
    def account_id(self) -> str | None:
        return self._account_id

    @property
    def contact_monotonic(self) -> float | None:
        hub = self._hub
        if hub is None or not self._member.joined or not hub.authorised or hub.channel is None:
            return None
        return hub.channel.last_inbound

    async def login(self, credential: Credential, *, at_risk: bool) -> None:
        """See `AccountSession.login`."""
        member = self._member
        member.joined = False
        member.listener.stage(Stage.CONNECTING)
        token = credentials.access_token(credential)
        fingerprint = token.fingerprint()
        try:
            listed = await self._broker.cover(self._environment, self._account_id, credential, member, at_risk)
            if self._hub is None or self._hub.leaving is not None:
                self._hub = await self._broker.attach(self._environment, listed, member)
            self._account_id = str(listed.number)
            await self._hub.place().ready()
            member.listener.stage(Stage.AUTHORIZING)
            member.waiting = True
            await self._hub.log_in(member, LoginRequest(token, fingerprint, at_risk))
        except BrokerFault as fault:
            if fault.kind is FaultKind.FATAL_USER:
                await self._leave()
            raise
        finally:
            member.waiting = False
        member.joined = True
        self._mirror = self._hub.mirror

    async def reconcile(self) -> int:
        """See `AccountSession.reconcile`."""
        if self._hub is None or not self._member.joined:
            raise faults.transient(ReasonCode.ACCOUNT_SESSION_ENDED, "The account is not live.")
        return await self._hub.reconcile()

    async def logout(self) -> None:
        """See `AccountSession.logout`."""
        await self._leave()

    async def _leave(self) -> None:
        hub, self._hub = self._hub, None
        self._member.joined = False
        self._member.fingerprint = None
        if hub is not None:
            await self._broker.detach(hub, self._member)
