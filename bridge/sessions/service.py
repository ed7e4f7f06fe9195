"""The session service: what the HTTP API and the command line may ask of sessions.

It resolves what a request means (which user, which account, which key), stores it, and only then lets the roster carry
it out; it never changes a session itself. Invariants: what was answered is stored; one row per (user, broker, account);
the same answer for a repeated start; a default account that never moves (DESIGN §7).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random

from bridge.brokers.base import Broker, ChannelHealth, Credential, Environment
from bridge.credentials.grants import CredentialSource
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import CrashHandler, Tasks
from bridge.sessions import reactions
from bridge.sessions.choosing import environment_of, unnamed_account
from bridge.sessions.defaults import DefaultAccount, cache_keys, keys_of_row
from bridge.sessions.desired import AlreadyWanted, DesiredSessions, Start
from bridge.sessions.explain import view_of
from bridge.sessions.keeping import Keeper
from bridge.sessions.listing import Listing
from bridge.sessions.remembered import DesiredInMemory
from bridge.sessions.roster import Roster
from bridge.sessions.session import Recorder, Session
from bridge.sessions.states import State, status_name
from bridge.sessions.supervisor import Supervisor
from bridge.sessions.turns import Turns, Where
from bridge.sessions.views import AccountChoice, Explanation, NoCredentials, SessionMetrics, SessionPage, SessionView
from bridge.telemetry.audit import NO_AUDIT, Action, Audit
from core.errors import BridgeError, Conflict, InvalidInput, NotFound, Unavailable
from core.user_key import UserKeyMode, UserKeys, UserKeyScheme, normalise_user_id

MOST_ACCOUNTS = 100  # of one user at one broker, ever started: whatever callers make up is kept
CREDENTIAL_DEADLINE_S = 2.0
DRAIN_RETRY_S = 5.0
STORE_RETRY_S = 2.0
RECORDED_WITHIN_S = 0.25  # a record is urgent for 100 ms; without a store nobody waits longer
ERASE_WAIT_S = 5.0  # for the last records of a user, before the rows go
_ACCOUNT_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_REFUSALS = (InvalidInput, NotFound, Conflict)  # said before anything was stored


class SessionService:
    """All sessions of this process. `owner` names the process in listings.

    `desired`: where starts and stops are stored, None for the memory of this process. `idle_after_s`: sessions that
    nobody started or read for so long end, None for never.
    """

    def __init__(  # noqa: PLR0913  what a whole room needs of the others, each by name
        self,
        *,
        brokers: Mapping[str, Broker],
        credentials: CredentialSource,
        recorder: Recorder,
        user_keys: UserKeyScheme,
        clock: Clock,
        rng: Random,
        owner: str,
        desired: DesiredSessions | None = None,
        audit: Audit = NO_AUDIT,
        idle_after_s: float | None = None,
        on_crash: CrashHandler | None = None,
    ) -> None:
        self._brokers = brokers
        self._credentials = credentials
        self._recorder = recorder
        self._user_keys = user_keys
        self._clock = clock
        self._owner = owner
        self._audit = audit
        self._desired: DesiredSessions = DesiredInMemory(clock) if desired is None else desired
        self._tasks = Tasks("sessions", on_crash)
        self._turns = Turns()
        self._supervisor = Supervisor(
            brokers=brokers,
            credentials=credentials,
            recorder=recorder,
            clock=clock,
            rng=rng,
            tasks=self._tasks,
            resolved=self._account_found,
        )
        self._table = self._supervisor.table
        self._roster = Roster(self._supervisor, user_keys)
        self._keeper = Keeper(
            supervisor=self._supervisor,
            roster=self._roster,
            turns=self._turns,
            desired=self._desired,
            brokers=brokers.keys(),
            clock=clock,
            audit=audit,
            idle_after_s=idle_after_s,
        )
        dual = user_keys.mode is UserKeyMode.DUAL
        self._listing = Listing(self._supervisor.machine, self._desired, owner, copies=dual)
        self._draining = False

    # ------------------------------------------------------------ life

    async def start_up(self) -> None:
        """Begin to act; wanted sessions of an earlier process come back in the background."""
        self._tasks.start(self._supervisor.run(), name="supervisor", essential=True)
        self._tasks.start(self._keeper.run(), name="keeper", essential=True)

    @property
    def resumed(self) -> bool:
        """True once every session that was wanted when this process started has been taken up."""
        return self._keeper.resumed

    async def drain(self, deadline_s: float) -> None:
        """Accept no more starts, mark every session as draining, end logins under way; within `deadline_s`.

        The records are then ready for the flusher's last flush; sockets are closed by the brokers' own `close`.
        """
        self._draining = True
        await self._supervisor.drain(deadline_s)

    async def close(self) -> None:
        """End every task."""
        await self._tasks.close()

    # ------------------------------------------------------------ start and stop

    async def start(
        self,
        *,
        user_id: str,
        broker: str,
        account_id: str | None,
        environment: Environment | None,
        actor: str = "bridge",
    ) -> SessionView:
        """Accept a session and return it at once; a session that runs is returned as it is.

        Raises InvalidInput (unknown broker or unusable id, malformed stored credential), NoCredentials, AccountChoice
        when several accounts are covered and none is named, Unavailable while draining, when credentials cannot be
        read or when the start cannot be stored. What only the broker can tell shows in the session instead.
        """
        user_id, keys = self._user(user_id)
        adapter = self._adapter(broker)
        _check_account_id(account_id)
        if environment is not None and environment not in adapter.capabilities.environments:
            raise InvalidInput(f"{broker} has no {environment.value} environment", field="environment")
        self._refuse_when_draining()
        where = (keys.canonical, broker)
        try:
            credential = await self._stored_credential(user_id, broker)
            account_id, environment = await self._which(where, adapter, credential, account_id, environment)
            self._refuse_when_draining()
            async with self._command(where):
                session = await self._store_start(Start(user_id, *where, account_id, environment))
        except (NoCredentials, AccountChoice, Unavailable) as error:
            self._record(Action.START, keys, broker, actor, outcome=_outcome(error))
            raise
        self._record(Action.START, keys, broker, actor)
        return self._view(session)

    async def stop(
        self, *, user_id: str, broker: str, account_id: str | None = None, actor: str = "bridge"
    ) -> list[SessionView]:
        """Stop the session of one account, or with None every session of the user at this broker; repeatable.

        Raises NotFound when no such session was ever started, Unavailable when the stop cannot be stored: the session
        then goes on.
        """
        _, keys = self._user(user_id)
        self._adapter(broker)
        _check_account_id(account_id)
        where = (keys.canonical, broker)
        try:
            async with self._command(where):
                rows = await self._desired.stop(*where, account_id)
                if not rows:
                    raise NotFound("no such session was ever started")
                stopped = [(row, self._roster.end(row)) for row in rows]
        except Unavailable as error:
            self._record(Action.STOP, keys, broker, actor, outcome=_outcome(error))
            raise
        self._record(Action.STOP, keys, broker, actor)
        return [self._listing.stored_view(row) if session is None else self._view(session) for row, session in stopped]

    async def wait(self, view: SessionView, timeout_s: float) -> SessionView:
        """Wait until the session is live, needs its user or has ended, at most `timeout_s`; return it as it is then.

        Afterwards a moment more until its record says so: who reads it next finds it.
        """
        session = self._table.get(view.serial)
        if session is None:
            return view
        await self._supervisor.settled(session, timeout_s)
        if session.entry is not None:
            await self._recorder.recorded(session.entry, RECORDED_WITHIN_S)
        return self._view(session)

    def used(self, user_key: str, broker: str) -> None:
        """Somebody read the user's record at this broker: its sessions are not idle. Cheap; never raises.

        `user_key` is canonical.
        """
        now = self._clock.monotonic()
        for session in self._table.of(user_key, broker):
            session.used_at = now

    def credentials_changed(self, user_key: str, broker: str) -> None:
        """Other credentials are stored now: sessions that wait for their user try again. `user_key` is canonical."""
        for session in self._table.of(user_key, broker):
            if session.state is State.ACTION_REQUIRED and not self._draining:
                self._supervisor.start(session)

    async def erase(self, user_key: str) -> None:
        """End every session of a user, write their last records, and delete what is stored of them here.

        `user_key` is canonical. Raises Unavailable; may be repeated. Records in the stores are the caller's to delete.
        """
        for broker in self._brokers:
            where = (user_key, broker)
            async with self._command(where):
                await self._desired.stop(*where, None)
                released = self._roster.forget(where)
                if released:
                    await asyncio.wait(released, timeout=ERASE_WAIT_S)
        await self._desired.erase(user_key)

    async def _store_start(self, start: Start) -> Session:
        """Store a start, then carry it out."""
        started = await self._desired.start(start)
        where = (start.user_key, start.broker)
        if started.default is not None:
            self._roster.defaults[where] = started.default.account_id
        if started.replaced:
            self._roster.drop(where, None)
        outlived = self._roster.drop_outlived(started.row)
        if outlived:
            await asyncio.wait(outlived, timeout=ERASE_WAIT_S)
        return self._roster.run(started.row)

    @asynccontextmanager
    async def _command(self, where: Where) -> AsyncIterator[None]:
        """The user's turn. Without an answer of the store nobody knows what it holds: it is read again."""
        async with self._turns.take(where):
            try:
                yield
            except _REFUSALS:
                raise
            except BaseException as error:
                self._roster.doubts.add(where)
                self._keeper.wake()
                if isinstance(error, Unavailable):
                    raise _not_stored() from error
                raise

    # ------------------------------------------------------------ which account

    async def _which(
        self,
        where: Where,
        adapter: Broker,
        credential: Credential,
        account_id: str | None,
        environment: Environment | None,
    ) -> tuple[str | None, Environment]:
        """The account and environment that a start means. Raises AccountChoice, Conflict, InvalidInput, Unavailable."""
        try:
            known = await self._desired.known(*where)
        except Unavailable as error:
            raise _not_stored() from error
        if account_id is not None:
            if known.of_account(account_id) is None and len(known.sessions) >= MOST_ACCOUNTS:
                raise Conflict(f"this user has {MOST_ACCOUNTS} accounts at this broker already")
            session = self._table.find(*where, account_id)
            return account_id, environment_of(account_id, environment, credential, known, session)
        target = environment or credential.environment
        return await unnamed_account(adapter, credential, target, known, self._table.find(*where, None)), target

    async def _account_found(self, session: Session, account_id: str) -> None:
        """A login found out which account an unnamed session is. Raises BrokerFault when that one has its own row."""
        where = (session.user_keys.canonical, session.broker)
        async with self._turns.take(where):
            other = self._table.find(*where, account_id)
            if other is not None and other.state is not State.STOPPED:
                raise reactions.already_served(account_id)
            try:
                default = await self._desired.resolve(*where, DefaultAccount(account_id, session.environment))
            except AlreadyWanted as error:
                raise reactions.already_served(account_id) from error
            except BaseException as error:
                self._roster.doubts.add(where)
                if isinstance(error, Unavailable):
                    raise reactions.not_stored() from error
                raise
            if other is not None:
                self._supervisor.remove(other)
            self._roster.defaults[where] = default.account_id
            session.account_id = account_id
            keys = keys_of_row(session.broker, session.user_keys.all, account_id, default.account_id)
            if keys != session.keys:
                session.keys = keys
                self._supervisor.machine.open_record(session)

    # ------------------------------------------------------------ what there is

    async def sessions(self, *, status: str | None, broker: str | None, after: str | None, limit: int) -> SessionPage:
        """A page of the listing in a stable order; see `Listing.page`. Raises InvalidInput, Unavailable."""
        if broker is not None:
            self._adapter(broker)
        return await self._listing.page(status=status, broker=broker, after=after, limit=limit)

    async def of_user(self, user_key_prefix: str) -> list[SessionView]:
        """A user's sessions. Raises InvalidInput, NotFound, Conflict as `SessionTable.by_prefix`, and Unavailable."""
        return await self._listing.of_user(user_key_prefix)

    async def explain(self, user_key_prefix: str) -> list[Explanation]:
        """Why each of a user's sessions is as it is. Raises as `of_user`."""
        return await self._listing.explain(user_key_prefix)

    async def user_key(self, key: str) -> str:
        """The canonical key of the user named by `key`; see `Listing.user_key`."""
        return await self._listing.user_key(key)

    def cache_key(self, user_id: str, broker: str, account_id: str | None) -> str:
        """The canonical key of a user's record; `account_id` None: of the default account. Raises InvalidInput.

        Until a start was seen here the default is not known, and a named account gets a key of its own: its record may
        be under the key of the default account.
        """
        _, keys = self._user(user_id)
        self._adapter(broker)
        _check_account_id(account_id)
        return cache_keys(broker, keys.all, account_id, self._roster.defaults.get((keys.canonical, broker)))[0]

    def counts(self) -> dict[str, int]:
        """Sessions by record status."""
        return dict(Counter(status_name(session.state) for session in self._table))

    def brokers(self) -> dict[str, ChannelHealth]:
        """The state of each broker's channels."""
        return {name: broker.health() for name, broker in self._brokers.items()}

    def metrics(self) -> SessionMetrics:
        """Counters and gauges for telemetry."""
        return self._supervisor.metrics()

    # ------------------------------------------------------------ small things

    def _view(self, session: Session) -> SessionView:
        return view_of(session, self._owner)

    def _record(self, action: Action, keys: UserKeys, broker: str, actor: str, *, outcome: str = "ok") -> None:
        self._audit.record(action, user_key=keys.canonical, actor=actor, outcome=outcome, detail={"broker": broker})

    def _user(self, user_id: str) -> tuple[str, UserKeys]:
        user_id = normalise_user_id(user_id)
        return user_id, self._user_keys.keys(user_id)

    def _adapter(self, broker: str) -> Broker:
        adapter = self._brokers.get(broker)
        if adapter is None:
            known = ", ".join(sorted(self._brokers))
            raise InvalidInput(f"unknown broker; this bridge knows: {known}", field="broker")
        return adapter

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise Unavailable("the bridge is shutting down", retry_after_s=DRAIN_RETRY_S)

    async def _stored_credential(self, user_id: str, broker: str) -> Credential:
        try:
            async with asyncio.timeout(CREDENTIAL_DEADLINE_S):
                credential = await self._credentials.get(user_id, broker)
        except TimeoutError as error:
            raise Unavailable("the stored credentials cannot be read at present") from error
        if credential is None:
            raise NoCredentials(f"no {broker} credentials are stored for this user")
        return credential


def _check_account_id(account_id: str | None) -> None:
    if account_id is not None and not _ACCOUNT_ID.fullmatch(account_id):
        raise InvalidInput("an account id is 1 to 64 letters, digits or dashes", field="accountId")


def _not_stored() -> Unavailable:
    return Unavailable("the request cannot be stored at present; ask again", retry_after_s=STORE_RETRY_S)


def _outcome(error: BridgeError) -> str:
    """A stable code for the audit log."""
    if isinstance(error, NoCredentials):
        return "no-credentials"
    return "choose-account" if isinstance(error, AccountChoice) else "unavailable"
