"""A scripted broker in memory, with a credential source and a recorder to go with it: for tests of sessions only.

It keeps the promises of `bridge/brokers/base.py` and checks that its caller keeps theirs: an account that is logged in
twice at once, or used after its logout, fails the test at that place.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from urllib.parse import urlencode

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
    Stage,
)
from bridge.cache.entry import Entry, RecordSource
from bridge.cache.record import Reading
from bridge.credentials.grants import Refresher
from core.account import AccountMirror
from core.errors import InvalidInput
from core.instruments import Catalogue
from core.orders import Side
from core.positions import Position
from core.secret import Secret


class LoopClock:
    """The running loop's time on both clocks; virtual under looptime."""

    BASE_MS = 1_732_341_600_000

    def now_ms(self) -> int:
        return self.BASE_MS + round(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def fault(
    kind: FaultKind = FaultKind.TRANSIENT,
    code: ReasonCode = ReasonCode.BROKER_ERROR,
    *,
    retry_after_s: float | None = None,
    shared: bool = False,
    broker_code: str | None = None,
) -> BrokerFault:
    """A broker's refusal."""
    reason = Reason(code, f"scripted {code.value}")
    return BrokerFault(kind, reason, retry_after_s=retry_after_s, shared=shared, broker_code=broker_code)


def credential(user: str, token: str = "token-1", **changes: object) -> Credential:
    """A user's credential; the token is its only secret."""
    values: dict[str, object] = {
        "grant_id": f"grant-{user}",
        "environment": Environment.DEMO,
        "secrets": {"accessToken": Secret(f"{user}:{token}")},
        "account_id": f"acc-{user}",
    }
    return Credential(**{**values, **changes})  # type: ignore[arg-type]


Step = BrokerFault | Exception | Callable[[], Awaitable[None]] | None


class FakeAccount:
    """One account session."""

    def __init__(self, broker: FakeBroker, environment: Environment, account_id: str | None, listener: SessionListener):
        self._broker = broker
        self.environment = environment
        self.account_id = account_id
        self.listener = listener
        self.mirror: AccountMirror | None = None
        self.contact_monotonic: float | None = None
        self.live = False
        self.logging_in = False
        self.over = False

    async def login(self, credential: Credential, *, at_risk: bool) -> None:
        broker = self._broker
        assert not self.logging_in, "two logins of one account session at once"
        assert not self.live, "a login of a live account session"
        assert not self.over, "a login after the logout"
        token = next(iter(credential.secrets.values())).reveal()
        broker.logins.append((self.account_id, token, at_risk))
        self.logging_in = True
        broker.logging_in += 1
        broker.most_logging_in = max(broker.most_logging_in, broker.logging_in)
        try:
            await self._log_in(token)
        finally:
            self.logging_in = False
            broker.logging_in -= 1

    async def _log_in(self, token: str) -> None:
        broker = self._broker
        for stage in Stage:
            self.listener.stage(stage)
            await broker.pause(stage)
        steps = broker.script.get(self.account_id)
        step = steps.popleft() if steps else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            await step()
        if token in broker.refused_tokens:
            raise broker.refused_tokens[token]
        if self.account_id is None:
            self.account_id = broker.only_account
        self.mirror = broker.mirror(self.account_id or "unknown", self.environment)
        self.mirror.on_dirty = lambda: self.listener.changed(urgent=False)
        self.live = True
        self.contact_monotonic = asyncio.get_running_loop().time()
        broker.live.append(self)

    async def reconcile(self) -> int:
        broker = self._broker
        broker.reconciling += 1
        broker.most_reconciling = max(broker.most_reconciling, broker.reconciling)
        broker.reconciled.append((self.account_id, self.mirror is not None and self.mirror.at_risk))
        try:
            await asyncio.sleep(broker.reconcile_s)
            if broker.reconcile_fault is not None:
                raise broker.reconcile_fault
        finally:
            broker.reconciling -= 1
        return 1

    async def logout(self) -> None:
        self.over = True
        self._drop()
        self._broker.logouts.append(self.account_id)
        await asyncio.sleep(self._broker.logout_s)

    def lose(self, fault: BrokerFault) -> None:
        """The broker's side ends."""
        self._drop()
        self.listener.lost(fault)

    def _drop(self) -> None:
        self.live = False
        self.contact_monotonic = None
        if self in self._broker.live:
            self._broker.live.remove(self)


class FakeBroker:
    """A broker that does as it is told. `script[account]`: what each of the next logins does."""

    name = "fake"

    def __init__(self, *, slots: int = 20, login_s: float = 0.3) -> None:
        self.capabilities = Capabilities(refresh=True, consent=True)
        self.slots = slots
        self.login_s = login_s
        self.logout_s = 0.1
        self.reconcile_s = 0.2
        self.reconcile_every_s = 600.0
        self.reconcile_fault: BrokerFault | None = None
        self.script: dict[str | None, deque[Step]] = {}
        self.hold: dict[Stage, asyncio.Event] = {}
        self.refused_tokens: dict[str, BrokerFault] = {}
        self.only_account: str | None = "only"
        self.covered: Sequence[BrokerAccount] | BrokerFault | Callable[[], Awaitable[None]] = ()
        self.known: tuple[BrokerAccount, ...] = ()
        self.refresh_result: BrokerFault | Callable[[], Awaitable[None]] | None = None
        self.logins: list[tuple[str | None, str, bool]] = []
        self.logouts: list[str | None] = []
        self.reconciled: list[tuple[str | None, bool]] = []
        self.refreshes: list[str] = []
        self.issued_for_s: float | None = None
        self.exchanged: list[tuple[str, str]] = []  # code, redirect_uri
        self.exchange_result: BrokerFault | None = None
        self.live: list[FakeAccount] = []
        self.accounts_made: list[FakeAccount] = []
        self.mirrors: dict[str, AccountMirror] = {}
        self.logging_in = self.most_logging_in = 0
        self.reconciling = self.most_reconciling = 0
        self.closed = False

    def tell(self, account_id: str | None, *steps: Step) -> None:
        """Script the next logins of an account."""
        self.script.setdefault(account_id, deque()).extend(steps)

    async def pause(self, stage: Stage) -> None:
        if stage in self.hold:
            await self.hold[stage].wait()
        await asyncio.sleep(self.login_s / len(Stage))

    def mirror(self, account_id: str, environment: Environment) -> AccountMirror:
        if account_id not in self.mirrors:
            self.mirrors[account_id] = AccountMirror(environment.value, account_id, Catalogue(), currency="USD")
        return self.mirrors[account_id]

    def hold_position(self, account_id: str) -> None:
        """Put the account at risk."""
        self.mirror(account_id, Environment.DEMO).positions["1"] = a_position()

    def account(self, account_id: str) -> FakeAccount:
        """The live account session."""
        return next(account for account in self.live if account.account_id == account_id)

    # ------------------------------------------------------------ the protocol

    def read_credential(self, grant_id: str, entry: Mapping[str, object]) -> Credential:
        token = entry.get("accessToken")
        if not isinstance(token, str):
            raise InvalidInput("a token is text", field="accessToken")
        return Credential(grant_id, Environment.DEMO, {"accessToken": Secret(token)})

    def login_slots(self, environment: Environment) -> int:
        return self.slots

    def reconcile_interval_s(self, environment: Environment) -> float:
        return self.reconcile_every_s

    def session(self, environment: Environment, account_id: str | None, listener: SessionListener) -> FakeAccount:
        account = FakeAccount(self, environment, account_id, listener)
        self.accounts_made.append(account)
        return account

    async def accounts(self, credential: Credential) -> list[BrokerAccount]:
        await asyncio.sleep(0.01)
        if isinstance(self.covered, BrokerFault):
            raise self.covered
        if callable(self.covered):
            await self.covered()
            return []
        return list(self.covered)

    def known_accounts(self, credential: Credential) -> tuple[BrokerAccount, ...]:
        return self.known

    async def refresh(self, credential: Credential) -> IssuedTokens:
        token = credential.secrets["accessToken"].reveal()
        self.refreshes.append(token)
        await asyncio.sleep(0.5)
        if isinstance(self.refresh_result, BrokerFault):
            raise self.refresh_result
        if self.refresh_result is not None:
            await self.refresh_result()
        return IssuedTokens({"accessToken": Secret(token + "+")}, self.issued_for_s)

    def consent_url(self, *, state: str, redirect_uri: str, scope: ConsentScope) -> str:
        query = urlencode({"state": state, "redirect_uri": redirect_uri, "scope": scope.value})
        return f"https://broker.example/consent?{query}"

    async def exchange_code(self, code: Secret, *, redirect_uri: str) -> IssuedTokens:
        self.exchanged.append((code.reveal(), redirect_uri))
        if isinstance(self.exchange_result, BrokerFault):
            raise self.exchange_result
        return IssuedTokens({"accessToken": Secret(f"access-of-{code.reveal()}")}, 2_628_000.0)

    def health(self) -> ChannelHealth:
        return ChannelHealth(1, "up", None)

    def metrics(self) -> Mapping[str, float]:
        return {}

    async def close(self) -> None:
        self.closed = True


class FakeCredentials:
    """A credential source; single flight per grant as promised."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], Credential | Exception] = {}
        self.refreshing: dict[str, asyncio.Lock] = {}
        self.kept: list[tuple[str, tuple[BrokerAccount, ...]]] = []  # what a login had to keep with its grant
        self.keeping_fails: Exception | None = None

    def put(self, user: str, value: Credential | Exception, broker: str = "fake") -> None:
        self.stored[user, broker] = value

    async def get(self, user_id: str, broker: str) -> Credential | None:
        await asyncio.sleep(0)
        found = self.stored.get((user_id, broker))
        if isinstance(found, Exception):
            raise found
        return found

    async def refresh(self, user_id: str, broker: str, stale: Credential, refresher: Refresher) -> Credential:
        async with self.refreshing.setdefault(stale.grant_id, asyncio.Lock()):
            current = await self.get(user_id, broker)
            assert current is not None
            if current.secrets != stale.secrets:
                return current
            issued = await refresher(stale)
            expires_at_ms = None
            if issued.expires_in_s is not None:
                expires_at_ms = LoopClock().now_ms() + round(issued.expires_in_s * 1000)
            renewed = replace(stale, secrets=issued.secrets, expires_at_ms=expires_at_ms)
            self.put(user_id, renewed, broker)
            return renewed

    async def keep_accounts(
        self, user_id: str, broker: str, credential: Credential, accounts: Sequence[BrokerAccount]
    ) -> None:
        self.kept.append((user_id, tuple(accounts)))
        if self.keeping_fails is not None:
            raise self.keeping_fails
        if self.stored.get((user_id, broker)) == credential:
            self.put(user_id, replace(credential, accounts=tuple(accounts)), broker)


@dataclass
class FakeRecorder:
    """Writes down what would be written, at every urgent mark and registration."""

    written: dict[str, list[Reading]] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    awaited: list[str] = field(default_factory=list)  # keys whose record somebody waited for
    marks: int = 0
    fence: int = 0

    def register(self, keys: tuple[str, ...], source: RecordSource, *, fence: int = 0) -> Entry:
        old = self.entries.get(keys[0])
        entry = Entry(keys, source, floor=fence)
        if old is not None and not old.fenced and (old.fence or 0) >= fence:
            entry.fence, entry.version = old.fence, old.version
        else:
            self.fence = max(self.fence + 1, fence)
            entry.fence = self.fence
        self.entries[keys[0]] = entry
        self.mark(entry, urgent=True)
        return entry

    def mark(self, entry: Entry, *, urgent: bool = False) -> None:
        self.marks += 1
        if urgent and not entry.fenced and self.entries.get(entry.keys[0]) is entry:
            entry.version += 1
            self.written.setdefault(entry.keys[0], []).append(entry.source.reading())

    async def recorded(self, entry: Entry, timeout_s: float) -> None:
        self.awaited.append(entry.keys[0])

    async def release(self, entry: Entry) -> None:
        await asyncio.sleep(0.05)  # a store takes its time
        if self.entries.get(entry.keys[0]) is entry:
            del self.entries[entry.keys[0]]

    def forget(self, entry: Entry) -> None:
        if self.entries.get(entry.keys[0]) is entry:
            del self.entries[entry.keys[0]]
        entry.fenced = True

    def refuse(self, key: str) -> None:
        """Behave as if the primary had refused under a higher fence."""
        entry = self.entries[key]
        self.fence += 1
        entry.fenced = True
        entry.source.fenced((entry.fence or 0) + 1)

    def statuses(self, key: str) -> list[str]:
        """The statuses written under a key, in order."""
        return [reading.status.value for reading in self.written.get(key, [])]


def a_position() -> Position:
    """An open position; only that it exists matters here."""
    return Position("1", "10", Side.BUY, Decimal(1000), Decimal("1.1"))
