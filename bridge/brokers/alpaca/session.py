"""One user's login to one account: a member of a hub that others may share. Implements `AccountSession`."""

from __future__ import annotations

from typing import Protocol

from bridge.brokers.alpaca import credential as credentials
from bridge.brokers.alpaca.hub import AccountHub, not_live
from bridge.brokers.alpaca.members import Login, Member
from bridge.brokers.alpaca.proofs import shown_at
from bridge.brokers.base import (
    BrokerAccount,
    BrokerFault,
    Credential,
    Environment,
    FaultKind,
    SessionListener,
    Stage,
)
from core.account import AccountMirror


class Accounts(Protocol):
    """What a session needs of its broker."""

    async def cover(self, environment: Environment, account_id: str | None, credential: Credential) -> BrokerAccount:
        """The account to serve, proven by the credential. Raises BrokerFault."""

    async def attach(self, account: BrokerAccount, member: Member, login_of: Login) -> AccountHub:
        """The hub of an account, with one more member."""

    async def detach(self, hub: AccountHub, member: Member) -> None:
        """A member leaves; with the last one the account is left."""


class AlpacaSession:
    """See `AccountSession`."""

    __slots__ = ("_account_id", "_accounts", "_environment", "_hub", "_member", "_mirror")

    def __init__(
        self, accounts: Accounts, environment: Environment, account_id: str | None, listener: SessionListener
    ) -> None:
        self._accounts = accounts
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
        if self._hub is None or not self._member.joined or not self._hub.live:
            return None
        return self._hub.last_heard

    async def login(self, credential: Credential, *, at_risk: bool) -> None:
        """See `AccountSession.login`. Each account has a budget of its own, so risk changes no order here."""
        member = self._member
        member.joined = False
        member.listener.stage(Stage.CONNECTING)
        try:
            account = await self._accounts.cover(self._environment, self._account_id, credential)
            proven = Login(shown_at(credential, self._environment), credentials.fingerprint(credential))
            if self._hub is None or self._hub.leaving is not None:
                self._hub = await self._accounts.attach(account, member, proven)
            self._account_id = account.account_id
            member.listener.stage(Stage.AUTHORIZING)
            member.waiting = True
            await self._hub.log_in(member, proven)
        except BrokerFault as fault:
            if fault.kind is FaultKind.FATAL_USER:
                await self._leave()
            raise
        finally:
            member.waiting = False
        member.joined = True
        self._mirror = self._hub.mirror

    async def reconcile(self) -> int:
        """See `AccountSession.reconcile`. Where another session's credential serves the account, the own one must
        answer for it too: nobody is shown an account for longer than their access to it lasts."""
        hub = self._hub
        if hub is None or not self._member.joined:
            raise not_live()
        lost = await hub.reconcile()
        login = self._member.login
        if login is not None and login.fingerprint != hub.serving.fingerprint:
            await self._prove_again(hub, login.credential)
        return lost

    async def _prove_again(self, hub: AccountHub, credential: Credential) -> None:
        try:
            await self._accounts.cover(self._environment, self._account_id, credential)
        except BrokerFault as fault:
            if fault.kind is FaultKind.FATAL_USER and self._hub is hub and self._member.joined:
                await self._leave()
                self._member.listener.lost(fault)
            raise

    async def logout(self) -> None:
        """See `AccountSession.logout`."""
        await self._leave()

    async def _leave(self) -> None:
        hub, self._hub = self._hub, None
        self._member.joined = False
        if hub is not None:
            await self._accounts.detach(hub, self._member)
