"""The session service: what the HTTP API and the command line may ask of sessions.

It resolves what a request means (which user, which account, which key) and hands the row to the supervisor; it never
changes a session itself. Invariants: one row per (user, broker, account), the same answer for a repeated start, and a
default account that never moves (DESIGN §7).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from random import Random

from bridge.brokers.base import (
    Broker,
    BrokerAccount,
    BrokerFault,
    ChannelHealth,
    Credential,
    Environment,
)
from bridge.credentials.grants import CredentialSource
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import CrashHandler, Tasks
from bridge.sessions import reactions
from bridge.sessions.defaults import DefaultAccount, DefaultAccounts, DefaultsInMemory, cache_keys
from bridge.sessions.explain import explain, view_of
from bridge.sessions.session import Recorder, Session
from bridge.sessions.states import STATUS_OF, State, status_name
from bridge.sessions.supervisor import Supervisor
from bridge.sessions.views import (
    AccountChoice,
    Explanation,
    NoCredentials,
    SessionMetrics,
    SessionPage,
    SessionView,
)
from core.errors import InvalidInput, NotFound, Unavailable
from core.user_key import UserKeys, UserKeyScheme, normalise_user_id

log = logging.getLogger(__name__)

ACCOUNTS_DEADLINE_S = 5.0
CREDENTIAL_DEADLINE_S = 2.0
DRAIN_RETRY_S = 5.0
RECORDED_WITHIN_S = 0.25  # a record is urgent for 100 ms; without a store nobody waits longer
_ACCOUNT_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_RESTARTABLE = (State.STOPPED, State.FENCED, State.ACTION_REQUIRED)
_STATUSES = frozenset(status_name(state) for state in STATUS_OF)


class SessionService:
    """All sessions of this process. `owner` names the process in listings."""

    def __init__(
        self,
        *,
        brokers: Mapping[str, Broker],
        credentials: CredentialSource,
        recorder: Recorder,
        user_keys: UserKeyScheme,
        clock: Clock,
        rng: Random,
        owner: str,
        defaults: DefaultAccounts | None = None,
        on_crash: CrashHandler | None = None,
    ) -> None:
        self._brokers = brokers
        self._credentials = credentials
        self._recorder = recorder
        self._user_keys = user_keys
        self._owner = owner
        self._defaults: DefaultAccounts = DefaultsInMemory() if defaults is None else defaults
        self._tasks = Tasks("sessions", on_crash)
        self._serials = itertools.count(1)
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
        self._draining = False

    # ------------------------------------------------------------ life

    async def start_up(self) -> None:
        """Begin to act."""
        self._tasks.start(self._supervisor.run(), name="supervisor", essential=True)

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
        self, *, user_id: str, broker: str, account_id: str | None, environment: Environment | None
    ) -> SessionView:
        """Accept a session and return it at once; a session that runs is returned as it is.

        Raises InvalidInput (unknown broker or unusable id, malformed stored credential), NoCredentials, AccountChoice
        when several accounts are covered and none is named, Unavailable while draining or when credentials cannot be
        read. What only the broker can tell shows in the session instead.
        """
        user_id, keys = self._user(user_id)
        adapter = self._adapter(broker)
        _check_account_id(account_id)
        if environment is not None and environment not in adapter.capabilities.environments:
            raise InvalidInput(f"{broker} has no {environment.value} environment", field="environment")
        self._refuse_when_draining()
        credential = await self._stored_credential(user_id, broker)
        target = environment or credential.environment
        if account_id is None:
            account_id = await self._unnamed(adapter, keys, credential, target)
        else:
            target = self._environment_of(keys, broker, account_id, environment) or target
        if account_id is not None:
            default = DefaultAccount(account_id, target)
            await self._defaults.remember(keys.canonical, broker, default)
        self._refuse_when_draining()
        return self._view(self._run(user_id, keys, broker, target, account_id))

    async def stop(self, *, user_id: str, broker: str, account_id: str | None = None) -> list[SessionView]:
        """Stop the session of one account, or with None every session of the user at this broker; repeatable.

        Raises NotFound when no such session was ever started.
        """
        _, keys = self._user(user_id)
        self._adapter(broker)
        _check_account_id(account_id)
        rows = self._table.of(keys.canonical, broker)
        if account_id is not None:
            rows = [row for row in rows if row.account_id == account_id]
        if not rows:
            raise NotFound("no such session was ever started")
        for session in rows:
            self._supervisor.stop(session)
        return [self._view(session) for session in rows]

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

    def _run(
        self, user_id: str, keys: UserKeys, broker: str, environment: Environment, account_id: str | None
    ) -> Session:
        """The running row for this account: the present one, started again if it had ended, or a new one. No await."""
        session = self._table.find(keys.canonical, broker, account_id)
        if session is not None and session.environment is environment:
            if session.state in _RESTARTABLE:
                self._supervisor.start(session)
            return session
        if session is None:  # a row whose account is unknown gives way to one that names it
            session = self._table.find(keys.canonical, broker, None)
        if session is not None:
            self._supervisor.remove(session)
        default = self._defaults.get(keys.canonical, broker)
        session = Session(
            next(self._serials),
            user_id=user_id,
            user_keys=keys,
            broker=broker,
            environment=environment,
            account_id=account_id,
            keys=_keys_of_row(broker, keys, account_id, default),
            desk=self._supervisor,
        )
        self._table.add(session)
        self._supervisor.start(session)
        return session

    # ------------------------------------------------------------ which account

    async def _unnamed(
        self, adapter: Broker, keys: UserKeys, credential: Credential, environment: Environment
    ) -> str | None:
        """The account meant by a start that names none: the default, the credential's own, or the only one covered.

        None when the broker was not heard in time or refuses: the login will tell. Raises AccountChoice.
        """
        default = self._defaults.get(keys.canonical, adapter.name)
        if default is not None and default.environment is environment:
            return default.account_id
        if credential.account_id is not None and credential.environment is environment:
            return credential.account_id
        unknown = self._table.find(keys.canonical, adapter.name, None)
        if unknown is not None and unknown.environment is environment and unknown.state not in _RESTARTABLE:
            return None
        covered = await _covered_accounts(adapter, credential)
        if covered is None:
            here = [row for row in self._table.of(keys.canonical, adapter.name) if row.environment is environment]
            return here[0].account_id if len(here) == 1 else None
        accounts = [account for account in covered if account.environment is environment]
        if len(accounts) > 1:
            raise AccountChoice("the credentials cover several accounts; name one of them", accounts)
        return accounts[0].account_id if accounts else None

    def _environment_of(
        self, keys: UserKeys, broker: str, account_id: str, asked: Environment | None
    ) -> Environment | None:
        """Where a named account is known to live. Raises InvalidInput when asked for where it is proven not to be."""
        session = self._table.find(keys.canonical, broker, account_id)
        if session is None:
            return asked
        if asked is None or asked is session.environment:
            return session.environment
        if session.state is State.LIVE:
            known = session.environment.value
            raise InvalidInput(f"account {account_id} is a {known} account and is being served", field="environment")
        return asked

    async def _account_found(self, session: Session, account_id: str) -> None:
        """A login found out which account an unnamed session is. Raises BrokerFault when that one has its own row."""
        user_key, broker = session.user_keys.canonical, session.broker
        if self._table.find(user_key, broker, account_id) is not None:
            raise reactions.already_served(account_id)
        found = DefaultAccount(account_id, session.environment)
        default = await self._defaults.remember(user_key, broker, found)
        session.account_id = account_id
        keys = _keys_of_row(broker, session.user_keys, account_id, default)
        if keys != session.keys:
            session.keys = keys
            self._supervisor.machine.open_record(session)

    # ------------------------------------------------------------ what there is

    def sessions(self, *, status: str | None, broker: str | None, after: str | None, limit: int) -> SessionPage:
        """A page of the listing in a stable order. `after`: the `next` of the page before. Raises InvalidInput."""
        if status is not None and status not in _STATUSES:
            raise InvalidInput(f"status is one of {', '.join(sorted(_STATUSES))}", field="status")
        if broker is not None:
            self._adapter(broker)
        if limit < 1:
            raise InvalidInput("limit is at least 1", field="limit")
        start = None if after is None else _parse_cursor(after)
        found = [
            (_order(session), session)
            for session in self._table
            if (status is None or status_name(session.state) == status) and (broker is None or session.broker == broker)
        ]
        total = len(found)
        rest = sorted((row for row in found if start is None or row[0] > start), key=lambda row: row[0])
        page = rest[:limit]
        following = ":".join(page[-1][0]) if len(rest) > limit else None
        return SessionPage(tuple(self._view(session) for _, session in page), total, following)

    def of_user(self, user_key_prefix: str) -> list[SessionView]:
        """A user's sessions. Raises InvalidInput, NotFound, Conflict as `SessionTable.by_prefix`."""
        return [self._view(session) for session in self._of_user(user_key_prefix)]

    def explain(self, user_key_prefix: str) -> list[Explanation]:
        """Why each of a user's sessions is as it is. Raises as `of_user`."""
        machine = self._supervisor.machine
        return [explain(session, machine, self._owner) for session in self._of_user(user_key_prefix)]

    def cache_key(self, user_id: str, broker: str, account_id: str | None) -> str:
        """The canonical key of a user's record; `account_id` None: of the default account. Raises InvalidInput."""
        _, keys = self._user(user_id)
        self._adapter(broker)
        _check_account_id(account_id)
        default = self._defaults.get(keys.canonical, broker)
        return cache_keys(broker, keys.all, account_id, default.account_id if default else None)[0]

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

    def _of_user(self, prefix: str) -> Iterable[Session]:
        return sorted(self._table.by_prefix(prefix), key=_order)

    def _view(self, session: Session) -> SessionView:
        return view_of(session, self._owner)

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


def _check_account_id(account_id: str | None) -> None:
    if account_id is not None and not _ACCOUNT_ID.fullmatch(account_id):
        raise InvalidInput("an account id is 1 to 64 letters, digits or dashes", field="accountId")


def _keys_of_row(
    broker: str, keys: UserKeys, account_id: str | None, default: DefaultAccount | None
) -> tuple[str, ...]:
    """The record keys of a row; () while a further account of the user is not known by id."""
    if account_id is None and default is not None:
        return ()
    return cache_keys(broker, keys.all, account_id, default.account_id if default else None)


def _order(session: Session) -> tuple[str, str, str, str]:
    """Where a session stands in listings."""
    account_id = session.account_id or ""
    return (session.user_keys.canonical, session.broker, account_id, session.environment.value)


def _parse_cursor(after: str) -> tuple[str, str, str, str]:
    parts = after.split(":")
    if len(parts) != 4:
        raise InvalidInput("not a cursor of this listing", field="after")
    return (parts[0], parts[1], parts[2], parts[3])
