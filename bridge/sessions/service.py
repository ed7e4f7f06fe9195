"""The session service: what the HTTP API and the command line may ask of sessions.

It resolves what a request means (which user, which account, which key), stores it, and only then lets the roster carry
it out; it never changes a session itself. Invariants: what was answered is stored; one row per (user, broker, account);
the same answer for a repeated start; a default account that never moves (DESIGN §7).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random

from bridge.brokers.base import Broker, ChannelHealth, Environment
from bridge.credentials.grants import CredentialSource
from bridge.db.notices import EVERYBODY
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import CrashHandler, Tasks
from bridge.sessions import reactions
from bridge.sessions.defaults import DefaultAccount, cache_keys, keys_of_row
from bridge.sessions.desired import AlreadyWanted, DesiredSessions, Start, StoredSession
from bridge.sessions.elsewhere import Elsewhere, Records
from bridge.sessions.explain import view_of
from bridge.sessions.keeping import Keeper
from bridge.sessions.listing import Listing
from bridge.sessions.meaning import Meaning, not_stored, outcome
from bridge.sessions.ownership.steward import Membership, Steward
from bridge.sessions.remembered import DesiredInMemory
from bridge.sessions.roster import Roster
from bridge.sessions.session import Recorder, Session
from bridge.sessions.standing import Standing
from bridge.sessions.states import State, status_name
from bridge.sessions.supervisor import Supervisor
from bridge.sessions.turns import Turns, Where
from bridge.sessions.views import AccountChoice, Explanation, NoCredentials, SessionMetrics, SessionPage, SessionView
from bridge.telemetry.audit import NO_AUDIT, Action, Audit
from core.errors import Conflict, InvalidInput, NotFound, Unavailable
from core.user_key import UserKeyMode, UserKeys, UserKeyScheme

log = logging.getLogger(__name__)

DRAIN_RETRY_S = 5.0
RECORDED_WITHIN_S = 0.25  # a record is urgent for 100 ms; without a store nobody waits longer
ERASE_WAIT_S = 5.0  # for the last records of a user, before the rows go
_REFUSALS = (InvalidInput, NotFound, Conflict)  # said before anything was stored


class SessionService:
    """All sessions of this process. `standing`: what it may do.

    `desired`: where starts and stops are stored, None for the memory of this process. `membership`: of the fleet that
    shares it, None where this process is alone. `records`: to tell of sessions that other processes serve.
    `idle_after_s`: sessions that nobody started or read for so long end, None for never.
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
        standing: Standing,
        membership: Membership | None = None,
        records: Records | None = None,
        desired: DesiredSessions | None = None,
        audit: Audit = NO_AUDIT,
        idle_after_s: float | None = None,
        on_crash: CrashHandler | None = None,
    ) -> None:
        self._brokers = brokers
        self._recorder = recorder
        self._clock = clock
        self._standing = standing
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
            standing=standing,
            resolved=self._account_found,
        )
        self._table = self._supervisor.table
        self._roster = Roster(self._supervisor, user_keys, standing)
        self._meaning = Meaning(brokers, credentials, user_keys, self._desired, self._table)
        self._keeper = Keeper(
            supervisor=self._supervisor,
            roster=self._roster,
            turns=self._turns,
            desired=self._desired,
            standing=standing,
            brokers=brokers.keys(),
            clock=clock,
            audit=audit,
            idle_after_s=idle_after_s,
        )
        self.steward: Steward | None = None
        if membership is not None:
            self.steward = Steward(
                membership,
                standing=standing,
                supervisor=self._supervisor,
                turns=self._turns,
                keeper=self._keeper,
                brokers=sorted(brokers),
                clock=clock,
                rng=rng,
                audit=audit,
                counts=self._counts_for_others,
            )
        self._elsewhere = Elsewhere(standing, records, clock)
        self._listing = Listing(
            self._supervisor.machine,
            self._desired,
            standing,
            self._elsewhere,
            copies=user_keys.mode is UserKeyMode.DUAL,
            look=lambda: None if self.steward is None else self.steward.look,
        )
        self._draining = False

    # ------------------------------------------------------------ life

    async def start_up(self) -> None:
        """Begin to act; wanted sessions of an earlier process come back in the background."""
        self._tasks.start(self._supervisor.run(), name="supervisor", essential=True)
        self._tasks.start(self._keeper.run(), name="keeper", essential=True)
        if self.steward is not None:
            self.steward.start(self._tasks)

    @property
    def resumed(self) -> bool:
        """True once every session that was wanted when this process started has been taken up."""
        return self._keeper.resumed

    async def drain(self, deadline_s: float) -> None:
        """Accept no more starts, mark every session as draining, end logins under way; within `deadline_s`.

        The records are then ready for the flusher's last flush; sockets are closed by the brokers' own `close`.
        """
        self._draining = self._standing.ending = True
        await self._supervisor.drain(deadline_s)

    async def leave(self) -> None:
        """Let other processes take over at once; when every socket is closed. Raises Unavailable: later, then."""
        if self.steward is not None:
            await self.steward.leave()

    def notice(self, whom: str) -> None:
        """Another process has told `whom` to look. Cheap; never raises."""
        if whom in (EVERYBODY, self._standing.owner):
            self._keeper.wake()
            if self.steward is not None:
                self.steward.wake()

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
        user_id, keys = self._meaning.user(user_id)
        self._meaning.check(broker, account_id, environment)
        self._refuse_when_draining()
        where = (keys.canonical, broker)
        try:
            account_id, environment = await self._meaning.which(user_id, where, account_id, environment)
            self._refuse_when_draining()
            async with self._command(where):
                started = await self._store_start(Start(user_id, *where, account_id, environment))
        except (NoCredentials, AccountChoice, Unavailable) as error:
            self._record(Action.START, keys, broker, actor, outcome=outcome(error))
            raise
        self._record(Action.START, keys, broker, actor)
        return self._view(started) if isinstance(started, Session) else (await self._elsewhere.views([started]))[0]

    async def stop(
        self, *, user_id: str, broker: str, account_id: str | None = None, actor: str = "bridge"
    ) -> list[SessionView]:
        """Stop the session of one account, or with None every session of the user at this broker; repeatable.

        Raises NotFound when no such session was ever started, Unavailable when the stop cannot be stored: the session
        then goes on.
        """
        _, keys = self._meaning.user(user_id)
        self._meaning.check(broker, account_id)
        where = (keys.canonical, broker)
        try:
            async with self._command(where):
                rows = await self._desired.stop(*where, account_id, owner=self._standing.claims_for)
                if not rows:
                    raise NotFound("no such session was ever started")
                stopped = [(row, self._roster.end(row) if self._standing.is_ours(row) else None) for row in rows]
        except Unavailable as error:
            self._record(Action.STOP, keys, broker, actor, outcome=outcome(error))
            raise
        self._record(Action.STOP, keys, broker, actor)
        told = iter(await self._elsewhere.views([row for row, session in stopped if session is None]))
        return [next(told) if session is None else self._view(session) for _, session in stopped]

    async def wait(self, view: SessionView, timeout_s: float) -> SessionView:
        """Wait until the session is live, needs its user or has ended, at most `timeout_s`; return it as it is then.

        Afterwards a moment more until its record says so: who reads it next finds it.
        """
        session = self._table.get(view.serial)
        if session is None:
            return await self._elsewhere.settled(view, timeout_s)
        await self._supervisor.settled(session, timeout_s)
        if session.entry is not None:
            await self._recorder.recorded(session.entry, RECORDED_WITHIN_S)
        return self._view(session)

    def used(self, user_key: str, broker: str) -> None:
        """Somebody read the user's record at this broker: its sessions are not idle. Cheap; never raises.

        `user_key` is canonical.
        """
        now = self._clock.monotonic()
        here = self._table.of(user_key, broker)
        for session in here:
            session.used_at = now
        if self._standing.shared and not here:
            self._keeper.used_elsewhere((user_key, broker))

    def credentials_changed(self, user_key: str, broker: str) -> None:
        """Other credentials are stored now: sessions that wait for their user try again. `user_key` is canonical."""
        here = self._table.of(user_key, broker)
        for session in here:
            if session.state is State.ACTION_REQUIRED and not self._draining:
                self._supervisor.start(session)
        if self._standing.shared and not here:
            self._tasks.start(self._tell_of_credentials(user_key, broker), name="credentials changed")

    async def _tell_of_credentials(self, user_key: str, broker: str) -> None:
        try:
            await self._desired.retry(user_key, broker)
        except Unavailable as error:
            log.warning("the process that serves a user did not hear of credentials", extra={"error": str(error)})

    async def erase(self, user_key: str) -> None:
        """End every session of a user, write their last records, and delete what is stored of them here.

        `user_key` is canonical. Raises Unavailable; may be repeated. Records in the stores are the caller's to delete.
        """
        for broker in self._brokers:
            where = (user_key, broker)
            async with self._command(where):
                await self._desired.stop(*where, None, owner=self._standing.claims_for)
                released = self._roster.forget(where)
                if released:
                    await asyncio.wait(released, timeout=ERASE_WAIT_S)
        await self._desired.erase(user_key)

    async def _store_start(self, start: Start) -> Session | StoredSession:
        """Store a start, then carry it out, unless that is another process's business."""
        started = await self._desired.start(start, owner=self._standing.claims_for)
        where = (start.user_key, start.broker)
        if started.default is not None:
            self._roster.defaults[where] = started.default.account_id
        if started.replaced:
            self._roster.drop(where, None)
        outlived = self._roster.drop_outlived(started.row)
        if outlived:
            await asyncio.wait(outlived, timeout=ERASE_WAIT_S)
        if not self._standing.is_ours(started.row):
            self._roster.lose(started.row)
            return started.row
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
                    raise not_stored() from error
                raise

    # ------------------------------------------------------------ which account

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
            self._meaning.check(broker)
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
        _, keys = self._meaning.user(user_id)
        self._meaning.check(broker, account_id)
        return cache_keys(broker, keys.all, account_id, self._roster.defaults.get((keys.canonical, broker)))[0]

    def counts(self) -> dict[str, int]:
        """Sessions by record status."""
        return dict(Counter(status_name(session.state) for session in self._table))

    def _counts_for_others(self) -> dict[str, int]:
        """Sessions by broker and record status, "broker status", for the listings of other processes."""
        return dict(Counter(f"{session.broker} {status_name(session.state)}" for session in self._table))

    def brokers(self) -> dict[str, ChannelHealth]:
        """The state of each broker's channels."""
        return {name: broker.health() for name, broker in self._brokers.items()}

    def metrics(self) -> SessionMetrics:
        """Counters and gauges for telemetry."""
        return self._supervisor.metrics()

    # ------------------------------------------------------------ small things

    def _view(self, session: Session) -> SessionView:
        return view_of(session, self._standing.owner)

    def _record(self, action: Action, keys: UserKeys, broker: str, actor: str, *, outcome: str = "ok") -> None:
        self._audit.record(action, user_key=keys.canonical, actor=actor, outcome=outcome, detail={"broker": broker})

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise Unavailable("the bridge is shutting down", retry_after_s=DRAIN_RETRY_S)
